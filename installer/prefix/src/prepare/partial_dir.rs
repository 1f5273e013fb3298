//! The directory of partials.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime},
};

/// A partial that no run has resumed for this long is deleted.
const MAX_AGE: Duration = Duration::from_hours(7 * 24);

/// Creates the directory, and removes old partials from it.
pub(super) fn open(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let oldest = SystemTime::now().checked_sub(MAX_AGE);
    for entry in std::fs::read_dir(dir)?.flatten() {
        let is_old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| oldest.is_some_and(|oldest| modified < oldest));
        if is_old {
            // A failure costs space only, and the next run tries again.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_partials_are_removed() {
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
