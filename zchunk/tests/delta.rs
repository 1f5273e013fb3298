//! Plans and assemblies.

#![allow(
    clippy::cast_possible_truncation,
    clippy::similar_names,
    reason = "tests of small numbers"
)]

mod common;

use std::collections::HashSet;
use std::io::Cursor;

use proptest::prelude::*;
use taipan_zchunk::{
    Archive, Assembler, Buzhash, ChunkOrigin, CostModel, Digest, Encoding, Error, Form, Goal,
    HashKind, Header, Limits, PlainIndex, Plan, Planner, Writer, WriterOptions, write_to_vec,
};

/// A file with these chunks.
fn file_of(chunks: &[Vec<u8>], options: WriterOptions) -> (Vec<u8>, Header) {
    let mut writer = Writer::new(options.with_manual_boundaries()).unwrap();
    for chunk in chunks {
        writer.push(chunk).unwrap();
        writer.end_chunk().unwrap();
    }
    let mut file = Vec::new();
    let written = writer.finish(&mut file).unwrap();
    (file, written.header().clone())
}

fn archive(file: &[u8]) -> Archive<Cursor<&[u8]>> {
    Archive::open(Cursor::new(file), &Limits::default()).unwrap()
}

fn sink() -> Cursor<Vec<u8>> {
    Cursor::new(Vec::new())
}

/// Supplies all ranges of a plan in small pieces, the last ones first.
fn fetch(assembler: &mut Assembler<Cursor<Vec<u8>>>, plan: &Plan, file: &[u8], piece: usize) {
    for range in plan.ranges() {
        let starts: Vec<u64> = (range.start..range.end).step_by(piece).collect();
        for start in starts.into_iter().rev() {
            let end = (start + piece as u64).min(range.end);
            let outcome = assembler
                .push_range(start, &file[start as usize..end as usize])
                .unwrap();
            assert_eq!(outcome.bad, [0usize; 0]);
        }
    }
}

#[derive(Debug, Clone)]
struct Case {
    old: Vec<Vec<u8>>,
    new: Vec<Vec<u8>>,
    dictionary: Vec<u8>,
    same_dictionary: bool,
    uncompressed_source: bool,
    none: bool,
    old_level: i32,
    goal: Goal,
    model: CostModel,
    piece: usize,
    stored: HashSet<usize>,
}

prop_compose! {
    fn case()(
        // From a small set, so that files share and repeat chunks.
        pool in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..120), 1..12),
        old in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        new in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        dictionary in prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 20..60)],
        same_dictionary: bool,
        uncompressed_source: bool,
        none: bool,
        old_level in prop::sample::select(vec![1, 9]),
        goal in prop::sample::select(vec![Goal::File, Goal::Content]),
        model in prop::sample::select(vec![
            CostModel::BYTES_ONLY,
            CostModel { request: 40, range: 10, max_ranges: 1, max_gap: u64::MAX },
            CostModel { request: 100, range: 20, max_ranges: 3, max_gap: 100 },
        ]),
        piece in 1usize..200,
        stored in prop::collection::hash_set(0usize..20, 0..6),
    ) -> Case {
        let pick = |indices: Vec<prop::sample::Index>| {
            indices.into_iter().map(|index| index.get(&pool).clone()).collect()
        };
        Case {
            old: pick(old),
            new: pick(new),
            dictionary, same_dictionary, uncompressed_source, none, old_level, goal, model,
            piece, stored,
        }
    }
}

fn options(case: &Case, level: i32, dictionary: Vec<u8>) -> WriterOptions {
    let encoding = if case.none {
        Encoding::None
    } else {
        Encoding::zstd(level)
    };
    let options = WriterOptions::default()
        .with_encoding(encoding)
        .with_dictionary(dictionary);
    if case.uncompressed_source {
        options.with_uncompressed_source()
    } else {
        options
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_old_and_new_assemble_and_every_byte_is_counted(case in case()) {
        let old_dictionary =
            if case.same_dictionary { case.dictionary.clone() } else { vec![7; 30] };
        let (old_file, old) = file_of(&case.old, options(&case, case.old_level, old_dictionary));
        let (file, target) = file_of(&case.new, options(&case, 9, case.dictionary.clone()));
        let content = case.new.concat();

        let mut planner = Planner::new(&target, case.goal);
        let from_file = planner.add_file(&old);
        let from_store = planner.add_store(|chunk| {
            case.stored.contains(&chunk.index).then_some(Form::Stored)
        });
        let plan = planner.plan(&case.model);

        // The naive oracle: the chunks that neither source has, each once.
        let old_stored: HashSet<(Digest, u64)> =
            old.chunks().map(|chunk| (chunk.digest, chunk.len)).collect();
        let old_content: HashSet<&[u8]> = case.old.iter().map(|chunk| &chunk[..]).collect();
        let by_content = case.none || (case.uncompressed_source && case.goal == Goal::Content);
        let mut missing = HashSet::new();
        let mut missing_bytes = 0;
        let mut seen = HashSet::new();
        for chunk in target.chunks().filter(|chunk| chunk.len > 0) {
            let is_new = seen.insert(chunk.digest) || chunk.index == 0;
            let had = old_stored.contains(&(chunk.digest, chunk.len))
                || (chunk.index > 0 && by_content
                    && old_content.contains(&case.new[chunk.index - 1][..]))
                || case.stored.contains(&chunk.index);
            if is_new && !had {
                missing.insert(chunk.index);
                missing_bytes += chunk.len;
            }
        }
        // If no chunk is decompressed, the dictionary is not needed.
        if plan.origins()[0] == ChunkOrigin::Nowhere && missing.remove(&0) {
            prop_assert_eq!(case.goal, Goal::Content);
            missing_bytes -= target.chunk(0).len;
        }
        let fetched: HashSet<usize> = (0..target.chunk_count())
            .filter(|&index| plan.origins()[index] == ChunkOrigin::Fetch)
            .collect();
        prop_assert_eq!(&fetched, &missing);
        prop_assert_eq!(plan.missing_bytes(), missing_bytes);
        prop_assert_eq!(plan.fetch_bytes(), missing_bytes + plan.gap_bytes());
        prop_assert!(plan.update_bytes() <= plan.full_bytes());
        if case.model == CostModel::BYTES_ONLY {
            prop_assert_eq!(plan.gap_bytes(), 0);
            let had = target.chunks().filter(|chunk| !missing.contains(&chunk.index));
            for chunk in had {
                for range in plan.ranges() {
                    let apart = range.end <= chunk.offset || chunk.range().end <= range.start;
                    prop_assert!(chunk.len == 0 || apart);
                }
            }
        }

        let mut assembler = Assembler::new(target.clone(), &plan, sink()).unwrap();
        fetch(&mut assembler, &plan, &file, case.piece);
        let outcome = assembler.take_file(from_file, &mut archive(&old_file)).unwrap();
        prop_assert_eq!(outcome.bad.len(), 0);
        let mut ours = archive(&file);
        for (index, origin) in plan.origins().iter().enumerate() {
            if let ChunkOrigin::Store { source, form } = origin {
                prop_assert_eq!((*source, *form), (from_store, Form::Stored));
                let stored = ours.stored_chunk(index).unwrap();
                assembler.put_chunk(index, Form::Stored, &stored).unwrap();
            }
        }
        prop_assert_eq!(assembler.missing().collect::<Vec<_>>(), Vec::<usize>::new());
        let result = assembler.finish().unwrap().into_inner();
        match case.goal {
            Goal::File => prop_assert!(result == file),
            Goal::Content => prop_assert!(result == content),
        }
    }

    #[test]
    fn what_is_damaged_on_its_way_is_named_and_only_that_is_fetched_again(
        case in case(),
        damage in any::<prop::sample::Index>(),
    ) {
        let (file, target) = file_of(&case.new, options(&case, 9, case.dictionary.clone()));
        let plan = Planner::new(&target, case.goal).plan(&CostModel::BYTES_ONLY);
        prop_assume!(plan.missing_bytes() > 0);
        let mut bad_file = file.clone();
        let fetched: Vec<u64> = plan.ranges().iter().flat_map(Clone::clone).collect();
        let at = *damage.get(&fetched);
        bad_file[at as usize] ^= 0x40;
        let mut assembler = Assembler::new(target.clone(), &plan, sink()).unwrap();
        let mut bad = Vec::new();
        for range in plan.ranges() {
            let bytes = &bad_file[range.start as usize..range.end as usize];
            bad.extend(assembler.push_range(range.start, bytes).unwrap().bad);
        }
        let damaged = target.first_chunk_after(at);
        prop_assert_eq!(bad, vec![damaged]);
        let second = assembler.replan(&CostModel::BYTES_ONLY);
        prop_assert_eq!(second.ranges().to_vec(), vec![target.chunk(damaged).range(); 1]);
        fetch(&mut assembler, &second, &file, case.piece);
        let result = assembler.finish().unwrap().into_inner();
        match case.goal {
            Goal::File => prop_assert!(result == file),
            Goal::Content => prop_assert!(result == case.new.concat()),
        }
    }
}

#[test]
fn flag_4_reuses_content_across_compression_levels() {
    let content = common::json(400_000, 11);
    let write = |level| {
        let options = WriterOptions::default()
            .with_encoding(Encoding::zstd(level))
            .with_uncompressed_source();
        write_to_vec(&content, options).unwrap()
    };
    let ((old_file, old), (_, new)) = (write(1), write(19));
    for (goal, expected) in [(Goal::Content, 0), (Goal::File, new.header().body_len())] {
        let mut planner = Planner::new(new.header(), goal);
        planner.add_file(old.header());
        let plan = planner.plan(&CostModel::default());
        assert_eq!(plan.missing_bytes(), expected, "{goal:?}");
        if goal == Goal::Content {
            let mut assembler = Assembler::new(new.header().clone(), &plan, sink()).unwrap();
            assembler.take_file(0, &mut archive(&old_file)).unwrap();
            assert!(assembler.finish().unwrap().into_inner() == content);
        }
    }
}

#[test]
fn a_longer_checksum_matches_its_prefix() {
    let content = common::json(200_000, 12);
    let write = |hash| {
        write_to_vec(&content, WriterOptions::default().with_chunk_hash(hash))
            .unwrap()
            .1
    };
    let (long, short) = (write(HashKind::Sha512), write(HashKind::Sha512_128));
    let missing = |target: &Header, old: &Header| {
        let mut planner = Planner::new(target, Goal::File);
        planner.add_file(old);
        planner.plan(&CostModel::default()).missing_chunks()
    };
    assert_eq!(missing(short.header(), long.header()), 0);
    assert_eq!(
        missing(long.header(), short.header()),
        long.header().chunk_count() - 1
    );
}

#[test]
fn chunks_are_found_in_a_plain_file() {
    let old = common::json(600_000, 13);
    let mut new = old.clone();
    new.splice(300_000..300_010, *b"a little longer than before");
    // Boundaries of buzhash, which are found again; and other boundaries, which are found by position.
    let options = WriterOptions::default().with_uncompressed_source();
    let (_, auto) = write_to_vec(&new, options.clone()).unwrap();
    let pieces: Vec<Vec<u8>> = new.chunks(10_000).map(<[u8]>::to_vec).collect();
    let (_, manual) = file_of(&pieces, options.clone());
    let (uncompressed_file, uncompressed) =
        write_to_vec(&new, options.clone().with_encoding(Encoding::None)).unwrap();
    let default = WriterOptions::default();
    let (plain_file, plain) = write_to_vec(&new, default.clone()).unwrap();

    for target in [auto.header(), &manual, uncompressed.header()] {
        let index = PlainIndex::new(&mut Cursor::new(&old), target, Buzhash::default()).unwrap();
        let mut planner = Planner::new(target, Goal::Content);
        let source = planner.add_plain(&index);
        let plan = planner.plan(&CostModel::default());
        assert!(
            (1..=2).contains(&plan.missing_chunks()),
            "{}",
            plan.missing_chunks()
        );
        let mut assembler = Assembler::new(target.clone(), &plan, sink()).unwrap();
        let outcome = assembler
            .take_plain(source, &index, &mut Cursor::new(&old))
            .unwrap();
        assert_eq!(
            outcome.good.len() + plan.missing_chunks() + 1,
            target.chunk_count()
        );
        // The source is another file: all chunks are reported.
        let mut other = Assembler::new(target.clone(), &plan, sink()).unwrap();
        let wrong = vec![0; old.len()];
        let named = other
            .take_plain(source, &index, &mut Cursor::new(wrong))
            .unwrap();
        assert_eq!((named.good.len(), named.bad), (0, outcome.good));
    }

    // A file without compression can also be assembled as a file.
    let index = PlainIndex::new(
        &mut Cursor::new(&old),
        uncompressed.header(),
        Buzhash::default(),
    )
    .unwrap();
    let mut planner = Planner::new(uncompressed.header(), Goal::File);
    let source = planner.add_plain(&index);
    let plan = planner.plan(&CostModel::default());
    let mut assembler = Assembler::new(uncompressed.header().clone(), &plan, sink()).unwrap();
    assembler
        .take_plain(source, &index, &mut Cursor::new(&old))
        .unwrap();
    fetch(&mut assembler, &plan, &uncompressed_file, 5000);
    assert!(assembler.finish().unwrap().into_inner() == uncompressed_file);

    // Without flag 4, chunks are found only by compressing again.
    let target = plain.header();
    let index = PlainIndex::new(&mut Cursor::new(&old), target, Buzhash::default()).unwrap();
    assert!(index.is_empty());
    let index = PlainIndex::recompressed(
        &mut Cursor::new(&old),
        target,
        Buzhash::default(),
        default.encoding,
        &[],
    )
    .unwrap();
    assert!(index.len() >= target.chunk_count() - 3, "{}", index.len());
    for goal in [Goal::File, Goal::Content] {
        let mut planner = Planner::new(target, goal);
        let source = planner.add_plain(&index);
        let plan = planner.plan(&CostModel::default());
        assert_eq!(
            plan.missing_chunks(),
            target.chunk_count() - 1 - index.len()
        );
        let mut assembler = Assembler::new(target.clone(), &plan, sink()).unwrap();
        assembler
            .take_plain(source, &index, &mut Cursor::new(&old))
            .unwrap();
        fetch(&mut assembler, &plan, &plain_file, 5000);
        let expected = if goal == Goal::File {
            &plain_file
        } else {
            &new
        };
        assert!(assembler.finish().unwrap().into_inner() == *expected);
    }
}

#[test]
fn the_dictionary_is_fetched_when_a_failed_source_makes_it_necessary() {
    let chunks: Vec<Vec<u8>> = (0..4).map(|n| common::json(3000, n)).collect();
    let options = || {
        WriterOptions::default()
            .with_dictionary(common::json(2000, 0))
            .with_uncompressed_source()
    };
    let (file, target) = file_of(&chunks, options());
    let mut planner = Planner::new(&target, Goal::Content);
    let source = planner.add_store(|_| Some(Form::Content));
    let plan = planner.plan(&CostModel::default());
    assert_eq!(plan.fetch_bytes(), 0);
    assert!(plan.origins()[1..].iter().all(|origin| matches!(
        origin,
        ChunkOrigin::Store { source: s, form: Form::Content } if *s == source
    )));
    let mut assembler = Assembler::new(target.clone(), &plan, sink()).unwrap();
    assert_eq!(assembler.missing().collect::<Vec<_>>(), [1, 2, 3, 4]);
    for (index, chunk) in chunks.iter().enumerate().skip(1) {
        assert_eq!(
            assembler
                .put_chunk(index + 1, Form::Content, chunk)
                .unwrap()
                .good,
            [index + 1]
        );
    }
    let lie = assembler
        .put_chunk(1, Form::Content, b"something else")
        .unwrap();
    assert_eq!(lie.bad, [1]);
    assert_eq!(assembler.missing().collect::<Vec<_>>(), [0, 1]);
    let second = assembler.replan(&CostModel::default());
    assert_eq!(
        second.ranges(),
        std::slice::from_ref(&(target.chunk(0).offset..target.chunk(1).range().end))
    );
    // The chunk arrives before the dictionary.
    for index in [1, 0] {
        let range = target.chunk(index).range();
        let bytes = &file[range.start as usize..range.end as usize];
        assembler.push_range(range.start, bytes).unwrap();
    }
    assert!(assembler.finish().unwrap().into_inner() == chunks.concat());
}

#[test]
fn an_incomplete_assembly_is_an_error() {
    let (_, target) = file_of(&[common::json(1000, 1)], WriterOptions::default());
    let plan = Planner::new(&target, Goal::File).plan(&CostModel::default());
    assert_eq!(plan.requests().len(), 1);
    assert!(!plan.is_worthwhile() || plan.cost() < plan.full_cost());
    let assembler = Assembler::new(target.clone(), &plan, sink()).unwrap();
    assert!(matches!(
        assembler.finish(),
        Err(Error::Missing { count: 1, first: 1 })
    ));
    assert!(Assembler::new(file_of(&[], WriterOptions::default()).1, &plan, sink()).is_err());
}
