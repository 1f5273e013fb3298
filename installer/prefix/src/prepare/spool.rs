//! Where what has arrived early of large archives lies.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime},
};

/// What nobody has come back to for so long is not worth its space.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// Makes the directory, and removes what earlier runs have left in it long ago.
pub(super) fn open(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let oldest = SystemTime::now().checked_sub(KEPT);
    for entry in std::fs::read_dir(dir)?.flatten() {
        let is_old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| oldest.is_some_and(|oldest| modified < oldest));
        if is_old {
            // It is only space, and the next run tries again.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_old_goes() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("a/b");
        open(&spool).unwrap();
        for (name, days) in [("old", 8), ("young", 6)] {
            let file = std::fs::File::create(spool.join(name)).unwrap();
            let modified = SystemTime::now() - Duration::from_hours(days * 24);
            file.set_modified(modified).unwrap();
        }
        open(&spool).unwrap();
        let names: Vec<_> = std::fs::read_dir(&spool).unwrap().collect();
        assert_eq!(names.len(), 1);
        assert!(spool.join("young").exists());
    }
}
