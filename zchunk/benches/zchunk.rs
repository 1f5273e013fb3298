//! Benchmarks of header, buzhash, encoding, decoding and plan.

use std::hint::black_box;
use std::io::Cursor;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use taipan_zchunk::{
    Buzhash, Chunker, CostModel, Encoding, Goal, Header, Limits, Planner, Reader, Writer,
    WriterOptions, extract, write_to_vec,
};

#[path = "../tests/common/mod.rs"]
mod common;

/// A file with one chunk per line, so that its index is long.
fn many_chunks(content: &[u8]) -> (Vec<u8>, Header) {
    let options = WriterOptions::default()
        .with_manual_boundaries()
        .with_encoding(Encoding::None);
    let mut writer = Writer::new(options).unwrap();
    for line in content.split_inclusive(|&byte| byte == b'\n') {
        writer.push(line).unwrap();
        writer.end_chunk().unwrap();
    }
    let mut file = Vec::new();
    let written = writer.finish(&mut file).unwrap();
    (file, written.header().clone())
}

fn benches(criterion: &mut Criterion) {
    let limits = Limits::default();
    let content = common::json(8 << 20, 1);
    let mut changed = content.clone();
    changed
        .iter_mut()
        .skip(5000)
        .step_by(80_000)
        .for_each(|byte| *byte ^= 1);

    let (file, header) = many_chunks(&content);
    let mut group = criterion.benchmark_group("header");
    group.throughput(Throughput::Elements(header.chunk_count() as u64));
    group.bench_function("parse", |bench| {
        bench.iter(|| Header::parse(black_box(&file), &limits).unwrap());
    });
    group.finish();

    let (_, other) = many_chunks(&changed);
    let mut group = criterion.benchmark_group("plan");
    group.throughput(Throughput::Elements(header.chunk_count() as u64));
    group.bench_function("from an old file", |bench| {
        bench.iter(|| {
            let mut planner = Planner::new(black_box(&other), Goal::File);
            planner.add_file(black_box(&header));
            planner.plan(&CostModel::default())
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("bytes");
    group.throughput(Throughput::Bytes(content.len() as u64));
    group.bench_function("buzhash", |bench| {
        bench.iter(|| {
            let mut chunker = Chunker::new(Buzhash::default());
            let (mut pos, mut cuts) = (0, 0);
            while let Some(n) = chunker.next_cut(black_box(&content[pos..])) {
                pos += n;
                cuts += 1;
            }
            cuts
        });
    });
    group.sample_size(10);
    group.bench_function("encode", |bench| {
        bench.iter_batched(
            WriterOptions::default,
            |options| write_to_vec(black_box(&content), options).unwrap(),
            BatchSize::LargeInput,
        );
    });
    let (file, _) = write_to_vec(&content, WriterOptions::default()).unwrap();
    group.bench_function("decode, one thread", |bench| {
        bench.iter(|| {
            let mut reader = Reader::new(black_box(&file[..]), &limits).unwrap();
            std::io::copy(&mut reader, &mut std::io::sink()).unwrap()
        });
    });
    group.bench_function("decode, all threads", |bench| {
        bench.iter(|| {
            extract(
                &mut Cursor::new(black_box(&file)),
                &mut std::io::sink(),
                &limits,
            )
            .unwrap()
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
