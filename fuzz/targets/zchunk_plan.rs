//! Plans between any two files, and assembly from honest and dishonest bytes.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::{Input, sealed};
use taipan_zchunk::{
    Archive, Assembler, Buzhash, CostModel, Form, Goal, Header, Limits, PlainIndex, Planner,
    extract,
};

const LIMITS: Limits = Limits {
    header: 1 << 16,
    chunks: 1 << 10,
    chunk: 1 << 18,
    total: 1 << 20,
};

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let choices = input.byte();
    let old_file = sealed::file(&mut input);
    let file = sealed::file(&mut input);
    let plain = input.take(200).to_vec();
    let (Ok(old), Ok(target)) = (
        Header::parse(&old_file, &LIMITS),
        Header::parse(&file, &LIMITS),
    ) else {
        return;
    };
    let goal = if choices & 1 == 0 {
        Goal::File
    } else {
        Goal::Content
    };
    let model = CostModel {
        request: u64::from(choices),
        range: 3,
        max_ranges: usize::from(choices >> 5) + 1,
        max_gap: if choices & 2 == 0 { u64::MAX } else { 7 },
    };
    let mut planner = Planner::new(&target, goal);
    let from_file = planner.add_file(&old);
    let cuts = Buzhash {
        bits: 3,
        min: 1,
        max: 50,
    };
    let plain_index = PlainIndex::new(&mut Cursor::new(&plain), &target, cuts).unwrap();
    let from_plain = planner.add_plain(&plain_index);
    planner.add_store(|chunk| match chunk.index as u8 & choices >> 2 {
        1 => Some(Form::Stored),
        2 => Some(Form::Content),
        _ => None,
    });
    let plan = planner.plan(&model);
    assert!(plan.missing_bytes() + plan.gap_bytes() == plan.fetch_bytes());
    assert!(plan.update_bytes() <= plan.full_bytes());

    // The file may be right in its checksums and still not decompress; only panics count here.
    let sink = Cursor::new(Vec::new());
    let Ok(mut assembler) = Assembler::new(target.clone(), &plan, sink) else {
        return;
    };
    let mut honest = true;
    let mut assemble = || -> taipan_zchunk::Result<()> {
        if let Ok(mut archive) = Archive::open(Cursor::new(&old_file[..]), &LIMITS) {
            assembler.take_file(from_file, &mut archive)?;
        }
        assembler.take_plain(from_plain, &plain_index, &mut Cursor::new(&plain))?;
        for _ in 0..3 {
            for range in assembler.replan(&model).ranges() {
                let mut bytes = file[range.start as usize..range.end as usize].to_vec();
                let lie = input.byte();
                let at = usize::from(lie) % bytes.len();
                if lie > 200 {
                    bytes[at] ^= lie;
                    honest = false;
                }
                let (first, second) = bytes.split_at(at);
                assembler.push_range(range.start + at as u64, second)?;
                assembler.push_range(range.start, first)?;
                let _ = assembler.put_chunk(usize::from(lie), Form::Content, first)?;
            }
        }
        Ok(())
    };
    let done = assemble().is_ok();
    let missing = assembler.missing().count();
    match assembler.finish() {
        Ok(sink) => {
            assert_eq!(missing, 0);
            if goal == Goal::File {
                // A file that is not what its own index says cannot be the result, but what the
                // index says can.
                let whole = extract(&mut &file[..], &mut std::io::sink(), &LIMITS);
                let result = sink.into_inner();
                assert!(result == file || whole.is_err());
                assert!(result.len() == file.len());
            } else {
                assert_eq!(sink.into_inner().len() as u64, target.raw_len());
            }
        }
        Err(_) => assert!(!done || !honest || missing > 0 || goal == Goal::File),
    }
});
