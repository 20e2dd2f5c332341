//! Where the time of one training step goes, operation by operation, against what the machine can do.
//!
//!     cargo bench --workspace --bench ops
//!     RAYON_NUM_THREADS=1 cargo bench --workspace --bench ops
//!     cargo bench --workspace --bench ops -- benches/roofline.svg
//!     cargo bench --workspace --bench ops -- --only "attention backward"
//!
//! The shapes are SmolLM2-135M's, 2 rows of 512 tokens, QLoRA with r = 16 and dropout 0.05. Each operation is timed alone on
//! random numbers, its best of several runs; its share is of their sum over the model's blocks. The peak is that of a
//! dense product of 1024 x 576 x 1536 in the same run, in the compute type.

use ferrotune::candle_core::{DType, Device, Tensor};
use ferrotune::ops::attention::{self, Heads};
use ferrotune::ops::dropout::Dropout;
use ferrotune::ops::linear_cross_entropy::{self, Wants};
use ferrotune::ops::qlora_linear::{self, LoraBranch, Needs};
use ferrotune::ops::rope::{self, RopeTable};
use ferrotune::ops::weight::{QuantizedWeight, Weight};
use ferrotune::ops::{residual, rms_norm, swiglu};
use ferrotune::quant::{QuantType, Quantized};
use ferrotune::{Error, Result, device};
use plotters::prelude::*;
use rayon::prelude::*;
use std::path::Path;
use std::time::Instant;

/// As in the program.
#[global_allocator]
static ALLOCATOR: ferrotune::ops::aligned::Aligned = ferrotune::ops::aligned::Aligned;

const ROWS: usize = 2;
const LENGTH: usize = 512;
const TOKENS: usize = ROWS * LENGTH;
const HIDDEN: usize = 576;
const INNER: usize = 1536;
const VOCABULARY: usize = 49_152;
const BLOCKS: usize = 30;
const HEADS: Heads = Heads { n_heads: 9, n_kv_heads: 3, head_dim: 64 };
const RANK: usize = 16;

/// What one operation took.
struct Row {
    name: String,
    /// How often a step does it.
    times: usize,
    seconds: f64,
    /// Floating-point operations of one time; 0 where memory is the limit.
    flops: f64,
    /// Bytes of activations read and written by one time, at least.
    bytes: f64,
}

/// The best of several runs, in seconds.
fn best(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut best = f64::MAX;
    let begun = Instant::now();
    for i in 0.. {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
        if i >= 4 && begun.elapsed().as_secs_f64() > 0.5 {
            break;
        }
    }
    Ok(best)
}

struct Bench {
    dtype: DType,
    /// Part of the names of the operations to time; empty for all.
    only: String,
    rows: Vec<Row>,
}

impl Bench {
    fn random(&self, rows: usize, cols: usize) -> Result<Tensor> {
        Ok(Tensor::randn(0f32, 1., (rows, cols), &Device::Cpu)?.to_dtype(self.dtype)?)
    }

    fn time(
        &mut self,
        name: &str,
        times: usize,
        flops: f64,
        numbers: usize,
        run: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if !name.contains(&self.only) {
            return Ok(());
        }
        let bytes = (numbers * self.dtype.size_in_bytes()) as f64;
        self.rows.push(Row { name: name.into(), times, seconds: best(run)?, flops, bytes });
        Ok(())
    }

    fn linear(&mut self, name: &str, times: usize, out: usize, input: usize) -> Result<()> {
        let values = Tensor::randn(0f32, 0.05, out * input, &Device::Cpu)?.to_vec1::<f32>()?;
        let quantized = Quantized::quantize(&values, [out, input], QuantType::Nf4, 64, true)?;
        let w: Weight = QuantizedWeight::new(&quantized, &Device::Cpu)?.into();
        let a = Tensor::randn(0f32, 0.05, (RANK, input), &Device::Cpu)?;
        let b = Tensor::randn(0f32, 0.05, (out, RANK), &Device::Cpu)?;
        let lora = LoraBranch { a: &a, b: &b, scale: 2., dropout: Some(Dropout { p: 0.05, seed: 1 }) };
        let (x, dy) = (self.random(TOKENS, input)?, self.random(TOKENS, out)?);
        let (_, saved) = qlora_linear::forward(&x, &w, None, Some(&lora))?;
        let (flops, numbers) = (2. * (TOKENS * out * input) as f64, TOKENS * (out + input));
        let needs = Needs { dx: true, dw: false };
        self.time(&format!("{name} forward"), times, flops, numbers, || {
            qlora_linear::forward(&x, &w, None, Some(&lora)).map(drop)
        })?;
        self.time(&format!("{name} backward"), times, flops, 2 * numbers, || {
            qlora_linear::backward(&x, &w, Some(&lora), &saved, &dy, needs).map(drop)
        })
    }

    fn others(&mut self) -> Result<()> {
        let (x, dy) = (self.random(TOKENS, HIDDEN)?, self.random(TOKENS, HIDDEN)?);
        let weight = self.random(1, HIDDEN)?.flatten_all()?;
        let size = TOKENS * HIDDEN;
        let (_, saved) = rms_norm::forward(&x, &weight, 1e-5)?;
        // Forward, and again in backward.
        self.time("rms_norm forward", 4 * BLOCKS, 0., 2 * size, || rms_norm::forward(&x, &weight, 1e-5).map(drop))?;
        self.time("rms_norm backward", 2 * BLOCKS, 0., 3 * size, || {
            rms_norm::backward(&x, &weight, &saved, &dy, false).map(drop)
        })?;
        self.time("residual", 7 * BLOCKS, 0., 3 * size, || residual::add(&x, &dy).map(drop))?;

        let (gate, up) = (self.random(TOKENS, INNER)?, self.random(TOKENS, INNER)?);
        let size = TOKENS * INNER;
        self.time("swiglu forward", 2 * BLOCKS, 0., 3 * size, || swiglu::forward(&gate, &up).map(drop))?;
        self.time("swiglu backward", BLOCKS, 0., 5 * size, || swiglu::backward(&gate, &up, &gate).map(drop))?;

        let (width, kv_width) = (HEADS.n_heads * HEADS.head_dim, HEADS.n_kv_heads * HEADS.head_dim);
        let (k, v) = (self.random(TOKENS, kv_width)?, self.random(TOKENS, kv_width)?);
        let frequencies: Vec<f32> = (0..HEADS.head_dim / 2).map(|i| 1e5f32.powf(-(i as f32) / 32.)).collect();
        let table = RopeTable::new(&frequencies, LENGTH, 1., &Device::Cpu)?;
        let positions: Vec<u32> = (0..TOKENS).map(|t| (t % LENGTH) as u32).collect();
        let size = TOKENS * (width + kv_width);
        self.time("rope", 2 * BLOCKS, 0., 2 * size, || rope::forward(&x, &k, &table, &positions).map(drop))?;

        let bounds: Vec<usize> = (0..=ROWS).map(|row| row * LENGTH).collect();
        let (o, saved) = attention::forward(&x, &k, &v, &bounds, &HEADS)?;
        // Two products over half a square, and five.
        let flops = (2 * TOKENS * LENGTH * width) as f64;
        self.time("attention forward", BLOCKS, flops, size + TOKENS * (width + kv_width), || {
            attention::forward(&x, &k, &v, &bounds, &HEADS).map(drop)
        })?;
        self.time("attention backward", BLOCKS, 2.5 * flops, 2 * size + 2 * TOKENS * width, || {
            attention::backward(&x, &k, &v, &o, &saved, &dy, &bounds, &HEADS).map(drop)
        })?;

        let head = (self.random(VOCABULARY, HIDDEN)? * 0.05)?;
        let targets: Vec<u32> = (0..TOKENS as u32).collect();
        let flops = 4. * (TOKENS * VOCABULARY * HIDDEN) as f64;
        self.time("linear_cross_entropy", 1, flops, VOCABULARY * HIDDEN, || {
            linear_cross_entropy::forward(&x, &head, &targets, Wants::HiddenGradient).map(drop)
        })
    }
}

/// Bytes a second that all threads read and write together, on memory far larger than the caches.
fn memory_speed() -> f64 {
    const NUMBERS: usize = 1 << 26;
    let (from, mut to) = (vec![1u16; NUMBERS], vec![0u16; NUMBERS]);
    let seconds = best(|| {
        to.par_chunks_mut(1 << 18).zip(from.par_chunks(1 << 18)).for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    });
    seconds.map_or(0., |seconds| (2 * size_of::<u16>() * NUMBERS) as f64 / seconds)
}

/// The operations that multiply, in a chart of GFLOP/s over FLOPs per byte, under what the machine can do.
fn roofline(path: &Path, rows: &[Row], peak: f64, memory: f64) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (760, 440)).into_drawing_area();
    root.fill(&WHITE)?;
    let (low, high) = (10f64, 3e3);
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d((low..high).log_scale(), (20f64..(2e-9 * peak).max(1e3)).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("FLOPs per byte of memory")
        .y_desc("GFLOP/s")
        .label_style(("sans-serif", 13))
        .draw()?;
    let roof = |intensity: f64| (intensity * memory).min(peak) * 1e-9;
    let points = (0..=200).map(|i| low * (high / low).powf(i as f64 / 200.));
    chart.draw_series(LineSeries::new(points.map(|x| (x, roof(x))), BLACK.stroke_width(2)))?;
    for (i, row) in rows.iter().filter(|row| row.flops > 0.).enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let point = (row.flops / row.bytes, row.flops / row.seconds * 1e-9);
        chart
            .draw_series([Circle::new(point, 5, color.filled())])?
            .label(row.name.clone())
            .legend(move |(x, y)| Circle::new((x + 6, y), 5, color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .label_font(("sans-serif", 13))
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(root.present()?)
}

fn main() -> Result<()> {
    let dtype = DType::BF16;
    // cargo bench passes `--bench`, too.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (only, path) = match &arguments[..] {
        [flag, only] if flag == "--only" => (only.clone(), None),
        [path] => (String::new(), Some(path)),
        _ => (String::new(), None),
    };
    let mut bench = Bench { dtype, only, rows: Vec::new() };
    let (x, w) = (bench.random(TOKENS, HIDDEN)?, Weight::Dense(bench.random(INNER, HIDDEN)?));
    let product = best(|| qlora_linear::forward(&x, &w, None, None).map(drop))?;
    let peak = 2. * (TOKENS * HIDDEN * INNER) as f64 / product;

    bench.linear("q, o", 2 * BLOCKS, HIDDEN, HIDDEN)?;
    bench.linear("k, v", 2 * BLOCKS, HEADS.n_kv_heads * HEADS.head_dim, HIDDEN)?;
    bench.linear("gate, up", 2 * BLOCKS, INNER, HIDDEN)?;
    bench.linear("down", BLOCKS, HIDDEN, INNER)?;
    bench.others()?;

    let machine = device::machine();
    let processor = machine.processor.as_deref().unwrap_or("unknown processor");
    let memory = memory_speed();
    println!(
        "{processor}, {} threads, {dtype:?}; dense product {:.0} GFLOP/s, memory {:.1} GB/s\n",
        rayon::current_num_threads(),
        peak * 1e-9,
        memory * 1e-9
    );
    println!("| operation | times | ms each | share | GFLOP/s | of the dense product | GB/s | of the memory |");
    println!("|---|---|---|---|---|---|---|---|");
    let total: f64 = bench.rows.iter().map(|row| row.times as f64 * row.seconds).sum();
    for row in &bench.rows {
        let Row { name, times, seconds, flops, bytes } = row;
        let share = 100. * *times as f64 * seconds / total;
        let speed = match flops {
            0. => " | ".to_string(),
            flops => format!("{:.0} | {:.0} %", flops / seconds * 1e-9, 100. * flops / seconds / peak),
        };
        println!(
            "| {name} | {times} | {:.3} | {share:.1} % | {speed} | {:.1} | {:.0} % |",
            1e3 * seconds,
            bytes / seconds * 1e-9,
            100. * bytes / seconds / memory
        );
    }
    println!("\n{:.0} ms in all for {TOKENS} tokens: {:.0} tokens/s", 1e3 * total, TOKENS as f64 / total);
    match path {
        Some(path) => roofline(Path::new(path), &bench.rows, peak, memory)
            .map_err(|error| Error::config("", format!("the chart: {error}"), "Choose a path that can be written.")),
        None => Ok(()),
    }
}
