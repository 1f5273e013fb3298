//! Publishing an index: all forms are made of one text, and the state follows them.

use std::{collections::BTreeMap, fs::File, path::PathBuf};

use taipan_transfer::{Content, Engine, NewFile, Outlet, PutOptions};

use super::{
    error::SyncError,
    local::{blocking, compress, local},
    state::MirrorState,
    zck::{ZCK, Zck, make_zck},
};
use crate::{
    layout::{NEVER, SHORT, content_type, index_file, state_file},
    records::{RecordTable, Rewrite, write_index},
};

/// The forms of one index as local files.
#[derive(Debug, Clone)]
pub(super) struct Forms {
    /// By name, in the order in which they are published: readers prefer the first ones.
    files: Vec<(&'static str, PathBuf)>,
    /// Whether the index cannot have a zchunk form.
    lacks_zck: bool,
}

/// Makes the forms of an index.
pub(super) async fn make_forms(
    table: std::sync::Arc<RecordTable>,
    without: std::collections::BTreeSet<usize>,
    text: PathBuf,
    work: PathBuf,
    name: &str,
    level: i32,
) -> Result<Forms, SyncError> {
    let output = work.join(format!("{name}.json"));
    let written = output.clone();
    let work = move || -> std::io::Result<()> {
        // They are about records that may be left out.
        let drops: &[&str] = if without.is_empty() {
            &[]
        } else {
            &["signatures"]
        };
        let rewrite = Rewrite {
            table: &table,
            without: &without,
            added: &BTreeMap::new(),
            drops_base_url: true,
            drops,
        };
        let mut output = File::create(written)?;
        write_index(&rewrite, &mut File::open(text)?, &mut output)
    };
    blocking(work).await.map_err(local(&output))?;
    let compressed = output.with_extension("json.zst");
    compress(output.clone(), compressed.clone(), level).await?;
    Ok(Forms {
        files: vec![("repodata.json.zst", compressed), ("repodata.json", output)],
        lacks_zck: false,
    })
}

impl Forms {
    /// Adds the zchunk form, which continues the file `previous`. False if the index cannot have one.
    pub(super) async fn add_zck(&mut self, previous: Option<PathBuf>) -> Result<bool, SyncError> {
        let Some((_, text)) = self.files.last().cloned() else {
            return Ok(false);
        };
        let output = text.with_extension("json.zck");
        let written = output.clone();
        let work = move || -> std::io::Result<Zck> {
            let table = RecordTable::read(&text).map_err(std::io::Error::other)?;
            let made = make_zck(&table, &text, previous.as_deref(), &written)?;
            if let (Zck::Same, Some(previous)) = (made, &previous) {
                std::fs::copy(previous, &written)?;
            }
            Ok(made)
        };
        let made = blocking(work).await.map_err(local(&output))?;
        if made == Zck::Impossible {
            self.lacks_zck = true;
            return Ok(false);
        }
        self.files.insert(0, (ZCK, output));
        Ok(true)
    }
}

/// A file of the source that goes beside the index.
#[derive(Debug, Clone)]
pub(super) struct SideFile {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
}

/// Puts a file beside the index, unless the mirror has it.
pub(super) async fn publish_side_file(
    engine: &Engine,
    outlet: &Outlet,
    subdir: &str,
    side: &SideFile,
    state: &mut MirrorState,
) -> Result<(), SyncError> {
    let failed = |error| local(&side.path)(std::io::Error::other(error));
    let content = Content::file(side.path.clone()).await.map_err(failed)?;
    let file = NewFile::new(index_file(subdir, side.name), content).await;
    let file = file.map_err(failed)?;
    let digest = file.sha256.to_string();
    if state.forms.get(side.name) != Some(&digest) {
        let file = file.with_headers(content_type(side.name), Some(SHORT));
        let label = format!("{subdir}/{}", side.name);
        engine
            .put(outlet, &label, &[file], PutOptions::default())
            .await?;
        state.forms.insert(side.name.to_owned(), digest);
    }
    Ok(())
}

/// Publishes the forms of an index, and then the state; in a registry all at once.
pub(super) async fn publish(
    engine: &Engine,
    outlet: &Outlet,
    subdir: &str,
    forms: &Forms,
    state: &mut MirrorState,
) -> Result<(), SyncError> {
    let mut files = Vec::new();
    let mut digests = BTreeMap::new();
    // Registries have no layer for it.
    let is_known = |name: &str| name != ZCK || !outlet.is_registry();
    for (name, path) in forms.files.iter().filter(|(name, _)| is_known(name)) {
        let content = Content::file(path.clone()).await;
        let file = match content {
            Ok(content) => NewFile::new(index_file(subdir, name), content).await,
            Err(error) => Err(error),
        };
        let file = file.map_err(|error| SyncError::Local {
            path: path.clone(),
            source: std::io::Error::other(error),
        })?;
        digests.insert((*name).to_owned(), file.sha256.to_string());
        files.push(file.with_headers(content_type(name), Some(SHORT)));
    }
    let earlier = state
        .forms
        .get(ZCK)
        .is_some_and(|digest| !digest.is_empty());
    let is_outdated = earlier && !digests.contains_key(ZCK);
    if forms.lacks_zck {
        state.forms.insert(ZCK.to_owned(), String::new());
    }
    state.forms.extend(digests);
    if is_outdated {
        // It would name another index.
        engine.delete(outlet, &[index_file(subdir, ZCK)]).await?;
    }
    let place = format!("{subdir}/repodata.json");
    if outlet.is_registry() {
        files.push(state_of(subdir, state).await?);
        engine
            .put(outlet, &place, &files, PutOptions::default())
            .await?;
        return Ok(());
    }
    engine
        .put(outlet, &place, &files, PutOptions::default())
        .await?;
    save_state(engine, outlet, subdir, state).await
}

async fn state_of(subdir: &str, state: &MirrorState) -> Result<NewFile, SyncError> {
    let file = NewFile::new(state_file(subdir), Content::from(state.to_json())).await;
    let file = file.map_err(|error| SyncError::Local {
        path: PathBuf::new(),
        source: std::io::Error::other(error),
    })?;
    Ok(file.with_headers("application/json", Some(NEVER)))
}

/// Saves the state alone.
pub(super) async fn save_state(
    engine: &Engine,
    outlet: &Outlet,
    subdir: &str,
    state: &MirrorState,
) -> Result<(), SyncError> {
    let options = PutOptions {
        keeps_other_layers: true,
    };
    let place = format!("{subdir}/.taipan/state.json");
    engine
        .put(outlet, &place, &[state_of(subdir, state).await?], options)
        .await?;
    Ok(())
}
