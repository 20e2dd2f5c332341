//! `attention`.

use super::{Case, Computed, check, close, f64s, random};
use ferrotune::candle_core::{D, DType, Device, Tensor};
use ferrotune::ops::attention::{self, Backward, CachedSequence, Heads, portable};
use ferrotune::{Error, Result};

/// Heads of q, heads of k, head_dim, bounds of the sequences.
#[derive(Debug)]
struct Attention(usize, usize, usize, &'static [usize]);

/// Lengths around the 64 of a tile and the 16 rows of the smallest task.
const CASES: &[Attention] = &[
    Attention(1, 1, 1, &[0, 1]),
    Attention(2, 1, 6, &[0, 1]),
    Attention(1, 1, 2, &[0, 3]),
    Attention(3, 3, 5, &[0, 1, 2, 3]),
    Attention(4, 2, 6, &[0, 5, 6, 6, 13]),
    Attention(9, 3, 64, &[0, 17]),
    Attention(2, 2, 8, &[0, 15, 31, 48]),
    Attention(4, 1, 8, &[0, 63, 127, 192]),
    Attention(2, 1, 16, &[0, 65, 66, 196]),
    Attention(6, 2, 32, &[0, 200]),
    Attention(4, 4, 64, &[0, 1, 3, 6, 10, 15, 21, 28, 36, 45, 55]),
];

const EPSILON: f64 = f32::EPSILON as f64;

impl Attention {
    fn heads(&self) -> Heads {
        Heads { n_heads: self.0, n_kv_heads: self.1, head_dim: self.2 }
    }

    fn longest(&self) -> usize {
        self.3.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default()
    }
}

impl Case for Attention {
    fn shapes(&self) -> Vec<Vec<usize>> {
        let t = self.3[self.3.len() - 1];
        [self.0, self.1, self.1].map(|heads| vec![t, heads * self.2]).to_vec()
    }

    /// Larger scores than those of noise, so that the weights differ.
    fn spread(&self) -> f64 {
        2.
    }

    fn roundings(&self) -> f64 {
        // A score is a sum of head_dim products of up to 4, and its rounding error is a factor on the exponential.
        8. + 2. * (self.2 as f64).sqrt() + 2. * (self.longest() as f64).sqrt()
    }

    fn terms(&self) -> f64 {
        1.
    }

    fn reference(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let [q, k, v] = inputs else { unreachable!() };
        let mut sequences = Vec::new();
        for w in self.3.windows(2).filter(|w| w[0] < w[1]) {
            let (start, len) = (w[0], w[1] - w[0]);
            let head = |x: &Tensor, h: usize| x.narrow(0, start, len)?.narrow(1, h * self.2, self.2)?.contiguous();
            let causal = Tensor::tril2(len, DType::U8, &Device::Cpu)?;
            let hidden = Tensor::full(-1e30f64, (len, len), &Device::Cpu)?.to_dtype(q.dtype())?;
            let mut outputs = Vec::new();
            for h in 0..self.0 {
                let key_head = h * self.1 / self.0;
                let scores = (head(q, h)?.matmul(&head(k, key_head)?.t()?)? / (self.2 as f64).sqrt())?;
                let scores = causal.where_cond(&scores, &hidden)?;
                let exp = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
                let p = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
                outputs.push(p.matmul(&head(v, key_head)?)?);
            }
            sequences.push(Tensor::cat(&outputs, 1)?);
        }
        Ok(vec![Tensor::cat(&sequences, 0)?])
    }

    fn op(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed {
        let ([q, k, v], heads) = (inputs, self.heads()) else { unreachable!() };
        let (o, saved) = attention::forward(q, k, v, self.3, &heads)?;
        let (dq, dk, dv) = attention::backward(q, k, v, &o, &saved, &dys[0], self.3, &heads)?;
        Ok((vec![o], vec![dq, dk, dv]))
    }

    fn portable(&self, inputs: &[Tensor], dys: &[Tensor]) -> Computed {
        let ([q, k, v], heads) = (inputs, self.heads()) else { unreachable!() };
        let (o, saved) = portable::forward(q, k, v, self.3, &heads)?;
        let backward = Backward { q, k, v, o: &o, lse: &saved.lse, d_o: &dys[0] };
        let (dq, dk, dv) = portable::backward(&backward, self.3, &heads)?;
        Ok((vec![o], vec![dq, dk, dv]))
    }

    fn apply(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![attention::apply(&inputs[0], &inputs[1], &inputs[2], self.3, &self.heads())?])
    }
}

#[test]
fn every_form_agrees() -> Result<()> {
    CASES.iter().try_for_each(|case| check(case))
}

fn inputs(case: &Attention) -> Result<Vec<Tensor>> {
    case.shapes().iter().zip(1..).map(|(shape, seed)| random(shape, seed)).collect()
}

#[test]
fn a_packed_sequence_is_as_if_alone() -> Result<()> {
    for case in CASES {
        let (x, heads) = (inputs(case)?, case.heads());
        let d_o = random(x[0].dims(), 9)?;
        let (o, d) = case.op(&x, std::slice::from_ref(&d_o))?;
        for w in case.3.windows(2).filter(|w| w[0] < w[1]) {
            let alone = |x: &Tensor| x.narrow(0, w[0], w[1] - w[0]);
            let [q, k, v] = [alone(&x[0])?, alone(&x[1])?, alone(&x[2])?];
            let bounds = [0, w[1] - w[0]];
            let (o_alone, saved) = attention::forward(&q, &k, &v, &bounds, &heads)?;
            let (dq, dk, dv) = attention::backward(&q, &k, &v, &o_alone, &saved, &alone(&d_o)?, &bounds, &heads)?;
            for (name, all, one) in [("o", &o[0], &o_alone), ("dq", &d[0], &dq), ("dk", &d[1], &dk), ("dv", &d[2], &dv)]
            {
                close(
                    &format!("{case:?}: {name} of rows {w:?}"),
                    &alone(all)?,
                    one,
                    EPSILON * case.roundings(),
                    case.terms(),
                );
            }
        }
    }
    Ok(())
}

/// Two sequences that share calls, in pieces of one and of several tokens, in caches with room to spare.
#[test]
fn a_cache_gives_what_the_whole_gives() -> Result<()> {
    let heads = Heads { n_heads: 6, n_kv_heads: 2, head_dim: 10 };
    let lengths = [150, 71];
    let bounds = [0, lengths[0], lengths[0] + lengths[1]];
    let [q, k, v] = [random(&[bounds[2], 60], 1)?, random(&[bounds[2], 20], 2)?, random(&[bounds[2], 20], 3)?];
    for dtype in [DType::F32, DType::F64] {
        let [q, k, v] = [q.to_dtype(dtype)?, k.to_dtype(dtype)?, v.to_dtype(dtype)?];
        let (want, _) = attention::forward(&q, &k, &v, &bounds, &heads)?;
        // The rows behind a sequence's own hold the next one's or nothing, and must not be seen.
        let cache = |x: &Tensor, i: usize| x.narrow(0, bounds[i], bounds[2] - bounds[i])?.pad_with_zeros(0, 0, 7);
        let caches = [(cache(&k, 0)?, cache(&v, 0)?), (cache(&k, 1)?, cache(&v, 1)?)];
        for ends in [
            [vec![150], vec![71]],
            [vec![1, 2, 66, 149, 150], vec![70, 71, 71, 71, 71]],
            [(1..=150).collect(), (1..=150).map(|i| i.min(71)).collect()],
        ] {
            let mut begun = [0; 2];
            for (&first, &second) in ends[0].iter().zip(&ends[1]) {
                let end = [first, second];
                let new = [0, 1].map(|i| (bounds[i] + begun[i], end[i] - begun[i]));
                let rows = |x: &Tensor| {
                    let parts = new.iter().filter(|n| n.1 > 0).map(|&(from, count)| x.narrow(0, from, count));
                    Tensor::cat(&parts.collect::<Result<Vec<_>, _>>()?, 0)
                };
                let mut at = 0;
                let sequences = [0, 1].map(|i| {
                    at += new[i].1;
                    CachedSequence { rows: at - new[i].1..at, k: &caches[i].0, v: &caches[i].1, len: end[i] }
                });
                let got = attention::cached(&rows(&q)?, &sequences, &heads)?;
                close(&format!("{dtype:?}, tokens {begun:?} to {end:?}"), &got, &rows(&want)?, 40. * EPSILON, 0.);
                let portable = portable::cached(&rows(&q)?, &sequences, &heads)?;
                close(
                    &format!("portable {dtype:?}, {begun:?} to {end:?}"),
                    &portable,
                    &rows(&want)?,
                    40. * EPSILON,
                    0.,
                );
                begun = end;
            }
            assert_eq!(begun, lengths);
        }
    }
    Ok(())
}

#[test]
fn later_tokens_change_nothing() -> Result<()> {
    let case = Attention(4, 2, 8, &[0, 90]);
    let x = inputs(&case)?;
    let (before, _) = attention::forward(&x[0], &x[1], &x[2], case.3, &case.heads())?;
    let last = Tensor::cat(
        &[Tensor::zeros((89, 1), DType::F32, &Device::Cpu)?, Tensor::full(3f32, (1, 1), &Device::Cpu)?],
        0,
    )?;
    let changed = |x: &Tensor| x.broadcast_add(&last);
    let (after, _) = attention::forward(&changed(&x[0])?, &changed(&x[1])?, &changed(&x[2])?, case.3, &case.heads())?;
    let earlier = |o: &Tensor| Ok::<_, Error>(f64s(&o.narrow(0, 0, 89)?));
    assert_eq!(earlier(&before)?, earlier(&after)?);
    assert_ne!(f64s(&before.get(89)?), f64s(&after.get(89)?));
    Ok(())
}

#[test]
fn large_scores_do_not_overflow() -> Result<()> {
    let case = Attention(2, 1, 4, &[0, 70]);
    let x = inputs(&case)?.iter().map(|x| x * 1e4).collect::<Result<Vec<_>, _>>()?;
    let (o, d) = case.op(&x, &x[..1])?;
    assert!(o.iter().chain(&d).flat_map(f64s).all(f64::is_finite));
    Ok(())
}

#[test]
fn one_thread_count_gives_one_result() -> Result<()> {
    let case = Attention(4, 2, 16, &[0, 150, 171, 300]);
    let x = inputs(&case)?;
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let run = || pool.install(|| case.op(&x, &x[..1])).map(|(o, d)| o.iter().chain(&d).flat_map(f64s).collect());
        let first: Vec<f64> = run()?;
        for _ in 0..4 {
            assert!(first == run()?, "{threads} threads: another result of the same inputs");
        }
    }
    Ok(())
}

#[test]
fn operands_that_do_not_fit() -> Result<()> {
    let heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 3 };
    let (q, k) = (random(&[5, 12], 1)?, random(&[5, 6], 2)?);
    let fails = |bounds: &[usize], heads: &Heads, k: &Tensor| {
        matches!(attention::forward(&q, k, k, bounds, heads), Err(Error::Shape { op: "attention", .. }))
    };
    assert!(!fails(&[0, 2, 5], &heads, &k));
    for bounds in [&[][..], &[0], &[0, 4], &[1, 5], &[0, 3, 2, 5], &[0, 6]] {
        assert!(fails(bounds, &heads, &k), "{bounds:?}");
    }
    assert!(fails(&[0, 5], &Heads { n_kv_heads: 3, ..heads }, &k));
    assert!(fails(&[0, 5], &Heads { n_kv_heads: 0, ..heads }, &k));
    assert!(fails(&[0, 5], &heads, &random(&[4, 6], 2)?));
    let cached = |rows, len| attention::cached(&q, &[CachedSequence { rows, k: &k, v: &k, len }], &heads);
    assert!(cached(0..5, 5).is_ok());
    assert!(matches!(cached(0..5, 4), Err(Error::Shape { .. })), "more new tokens than tokens");
    assert!(matches!(cached(0..5, 6), Err(Error::Shape { .. })), "more tokens than room");
    assert!(matches!(cached(0..4, 5), Err(Error::Shape { .. })), "a row of no sequence");
    Ok(())
}
