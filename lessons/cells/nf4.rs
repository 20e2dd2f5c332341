//! Cells of the lesson `nf4`: what four bits can hold.

use crate::prelude::*;

pub(crate) fn lesson() -> crate::Outcome {
    // ANCHOR: quantile
    use candle_core::cpu::erf::erf_inv;

    /// The number below which a share `p` of a standard normal distribution lies.
    fn quantile(p: f64) -> f64 {
        2f64.sqrt() * erf_inv(2.0 * p - 1.0)
    }

    /// `n` quantiles at even steps from the outermost one towards the middle, which is left out.
    fn side(n: usize) -> Vec<f64> {
        let outermost = 0.9677083;
        let step = (outermost - 0.5) / n as f64;
        (0..n).map(|i| quantile(outermost - step * i as f64)).collect()
    }
    // ANCHOR_END: quantile

    // ANCHOR: levels
    let mut levels = side(8); // eight above zero
    levels.extend(side(7).iter().map(|x| -x)); // seven below
    levels.push(0.0);
    levels.sort_by(f64::total_cmp);
    let largest = levels[15];
    levels.iter_mut().for_each(|x| *x /= largest);

    let canonical = QuantType::Nf4.code().map(f64::from);
    let mut compared = Table::new(["code", "derived", "bitsandbytes"]).numeric();
    for code in 0..16 {
        compared.numbers(code.to_string(), [levels[code], canonical[code]], 6);
    }
    table(compared);
    // ANCHOR_END: levels

    // ANCHOR: picture
    fn bell(x: f64) -> (f64, f64) {
        (x, (-0.5 * (x * quantile(0.9677083)).powi(2)).exp())
    }
    let curve = (-110..=110).map(|i| bell(f64::from(i) / 100.0)).collect::<Vec<_>>();
    let stems = levels.iter().map(|x| bell(*x)).collect::<Vec<_>>();
    let chart =
        Chart::new("The sixteen levels of NF4 below the bell curve they are quantiles of")
            .x("weight / absmax of its block")
            .y("how common, relative to zero");
    svg(chart.line("normal distribution", curve).stems("levels of NF4", stems));
    // ANCHOR_END: picture

    // ANCHOR: load
    let model = load("smollm2-135m", None)?;
    let weights = model.weights()?;
    println!("weights in the linear layers: {}", weights.len());
    println!("the first of them: {:.4?}", &weights[..6]);
    // ANCHOR_END: load

    // ANCHOR: block
    let absmax = weights[..64].iter().fold(0f32, |largest, w| largest.max(w.abs()));
    let mut steps = Table::new(["weight", "/ absmax", "code", "decoded"]).numeric();
    for w in &weights[..6] {
        let x = f64::from(w / absmax);
        let distance = |code: &usize| (canonical[*code] - x).abs();
        let code = (0..16).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(7);
        let decoded = canonical[code] * f64::from(absmax);
        let row = [format!("{x:.4}"), code.to_string(), format!("{decoded:.4}")];
        steps.row(std::iter::once(format!("{w:.4}")).chain(row));
    }
    println!("absmax of the first block: {absmax:.4}");
    table(steps);
    // ANCHOR_END: block

    // ANCHOR: measures
    fn quantize(w: &[f32], format: QuantType, double: bool) -> ferrotune::Result<Quantized> {
        Quantized::quantize(w, [w.len() / 64, 64], format, 64, double)
    }
    fn bits_per_weight(q: &Quantized) -> f64 {
        8.0 * q.size_bytes() as f64 / q.values() as f64
    }
    /// The root of the mean squared error, as a share of that of the weights.
    fn relative_error(weights: &[f32], decoded: &[f32]) -> f64 {
        let pairs = || weights.iter().zip(decoded).map(|(w, d)| (f64::from(*w), f64::from(*d)));
        let error: f64 = pairs().map(|(w, d)| (w - d).powi(2)).sum();
        (error / pairs().map(|(w, _)| w * w).sum::<f64>()).sqrt()
    }
    // ANCHOR_END: measures

    // ANCHOR: bits
    let computed = [4.0 + 32.0 / 64.0, 4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0)];
    let mut bits = Table::new(["scales", "computed", "measured", "relative error"]).numeric();
    for (i, name) in ["in 32 bits", "in 8 bits (double)"].into_iter().enumerate() {
        let q = quantize(&weights, QuantType::Nf4, i == 1)?;
        let error = relative_error(&weights, &q.dequantize());
        let [computed, measured] =
            [computed[i], bits_per_weight(&q)].map(|b| format!("{b:.3}"));
        bits.row([name.to_owned(), computed, measured, format!("{error:.4}")]);
    }
    table(bits);
    // ANCHOR_END: bits

    // ANCHOR: samples
    /// `n` numbers from 0 to 1 that look random and are the same on every machine.
    fn uniform(n: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 11) as f64 + 0.5) / 2f64.powi(53)
        };
        (0..n).map(|_| next()).collect()
    }
    fn normal(n: usize, seed: u64) -> Vec<f64> {
        uniform(n, seed).into_iter().map(quantile).collect()
    }
    // ANCHOR_END: samples

    // ANCHOR: data
    let n = 1 << 18;
    /// Student's t with five degrees of freedom: a normal number over the spread of five others.
    fn heavy((z, five): (f64, &[f64])) -> f32 {
        (z / (five.iter().map(|z| z * z).sum::<f64>() / 5.0).sqrt()) as f32
    }
    let tails = normal(n, 1).into_iter().zip(normal(5 * n, 7).chunks(5)).map(heavy).collect();
    let data: Vec<(&str, Vec<f32>)> = vec![
        ("normal", normal(n, 3).iter().map(|z| *z as f32).collect()),
        ("heavy tails", tails),
        ("uniform", uniform(n, 2).iter().map(|u| (2.0 * u - 1.0) as f32).collect()),
        ("real weights", weights.clone()),
    ];
    // ANCHOR_END: data

    // ANCHOR: formats
    let formats = [QuantType::Nf4, QuantType::Fp4, QuantType::Int4];
    let mut found: Vec<Vec<f64>> = vec![Vec::new(); 3];
    let mut rows = Table::new(["relative error", "NF4", "FP4", "INT4"]).numeric();
    for (name, values) in &data {
        for (errors, format) in found.iter_mut().zip(formats) {
            errors.push(relative_error(values, &quantize(values, format, false)?.dequantize()));
        }
        rows.numbers(*name, found.iter().map(|errors| errors[errors.len() - 1]), 4);
    }
    table(rows);
    // ANCHOR_END: formats

    // ANCHOR: bars
    let mut bars = Bars::new("Rounding error by data and format", data.iter().map(|d| d.0));
    bars = bars.y("relative error");
    for (format, errors) in formats.iter().zip(&found) {
        bars = bars.bar(format.name().to_uppercase(), errors.iter().copied());
    }
    svg(bars);
    // ANCHOR_END: bars

    // ANCHOR: perplexity tolerance=0.002
    let text = std::fs::read_to_string("../../datasets/prose/en.txt")?;
    let mut results = Table::new(["linear weights", "perplexity", "worse by"]).numeric();
    let whole = model.perplexity(&text)?.value();
    results.row(["32 bits".to_owned(), format!("{whole:.2}"), String::new()]);
    for format in formats {
        let rounded = load("smollm2-135m", Some(format))?.perplexity(&text)?.value();
        let worse = format!("{:.1}%", 100.0 * (rounded / whole - 1.0));
        results.row([format.name().to_uppercase(), format!("{rounded:.2}"), worse]);
    }
    table(results);
    // ANCHOR_END: perplexity

    // ANCHOR: memory
    let nf4 = load("smollm2-135m", Some(QuantType::Nf4))?;
    let mut memory = Table::new(["linear weights in", "MB", "bits a weight"]).numeric();
    let count = nf4.weight_count() as f64;
    memory.numbers("32 bits", [count * 4e-6, 32.0], 3);
    memory.numbers("16 bits", [count * 2e-6, 16.0], 3);
    let bytes = nf4.weight_bytes() as f64;
    memory.numbers("NF4, loaded", [bytes / 1e6, 8.0 * bytes / count], 3);
    table(memory);
    // ANCHOR_END: memory

    // ANCHOR: masters
    use candle_core::{DType, Device, Tensor};

    for dtype in [DType::F32, DType::BF16] {
        let mut trained = Tensor::new(&[0.05f32], &Device::Cpu)?.to_dtype(dtype)?;
        for _ in 0..1000 {
            trained = (trained + 1e-5)?;
        }
        println!("{dtype:?}: {:.4}", trained.to_dtype(DType::F32)?.to_vec1::<f32>()?[0]);
    }
    // ANCHOR_END: masters

    // ANCHOR: outlier
    let mut spoiled = weights[..64].to_vec();
    spoiled[0] = 100.0 * absmax;
    let before = quantize(&weights[..64], QuantType::Nf4, false)?.dequantize();
    let after = quantize(&spoiled, QuantType::Nf4, false)?.dequantize();
    println!("error of 63 weights: {:.4}", relative_error(&weights[1..64], &before[1..]));
    println!("beside an outlier:   {:.4}", relative_error(&weights[1..64], &after[1..]));
    // ANCHOR_END: outlier

    // ANCHOR: nan raises-exception
    spoiled[5] = f32::NAN;
    quantize(&spoiled, QuantType::Nf4, true)?;
    // ANCHOR_END: nan

    // ANCHOR: blocksizes solution
    let mut sizes = Table::new(["block", "bits a weight", "relative error"]).numeric();
    for size in [32, 64, 128, 256, 1024, 4096] {
        let shape = [weights.len() / 4096, 4096];
        let q = Quantized::quantize(&weights, shape, QuantType::Nf4, size, false)?;
        let error = relative_error(&weights, &q.dequantize());
        let bits = format!("{:.3}", bits_per_weight(&q));
        sizes.row([size.to_string(), bits, format!("{error:.4}")]);
    }
    table(sizes);
    // ANCHOR_END: blocksizes

    // ANCHOR: affine solution
    /// Sixteen even steps from the smallest to the largest of each block.
    fn affine(values: &[f32], block: usize) -> Vec<f32> {
        let round = |block: &[f32]| {
            let low = block.iter().copied().fold(f32::INFINITY, f32::min);
            let high = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let step = ((high - low) / 15.0).max(f32::MIN_POSITIVE);
            let decoded = block.iter().map(|v| low + ((v - low) / step).round() * step);
            decoded.collect::<Vec<f32>>()
        };
        values.chunks(block).flat_map(round).collect()
    }
    for (name, values) in &data[..3] {
        let [short, long] = [64, 128].map(|b| relative_error(values, &affine(values, b)));
        println!("{name}: block 64 {short:.4}, block 128 {long:.4}");
    }
    // ANCHOR_END: affine

    Ok(())
}
