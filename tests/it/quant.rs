//! 4-bit quantization against bitsandbytes' own bytes (`tests/golden/quant.py`), and its invariants.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use ferrotune::Error;
use ferrotune::quant::{Absmax, QuantType, Quantized, StateTensor, decode, from_state_dict, to_state_dict};
use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use sha2::{Digest, Sha256};

const TYPES: [QuantType; 3] = [QuantType::Nf4, QuantType::Fp4, QuantType::Int4];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quant").join(name)
}

fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn quant_type(name: &str) -> QuantType {
    TYPES.into_iter().find(|t| t.name() == name).unwrap()
}

fn floats(view: &TensorView) -> Vec<f32> {
    assert_eq!(view.dtype(), Dtype::F32);
    view.data().as_chunks::<4>().0.iter().map(|&w| f32::from_le_bytes(w)).collect()
}

fn sha(parts: &[&[u8]]) -> String {
    let mut sha = Sha256::new();
    parts.iter().for_each(|part| sha.update(part));
    sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digests of a doubly quantized matrix, as `digest` in the generator takes them.
fn digest(q: &Quantized) -> Value {
    let Absmax::Nested { codes, absmax, offset, .. } = &q.absmax else { panic!("not doubly quantized") };
    let nested: Vec<u8> = absmax.iter().chain([offset]).flat_map(|v| v.to_le_bytes()).collect();
    serde_json::json!({
        "shape": q.shape, "packed": sha(&[&q.packed]), "absmax": sha(&[codes]), "nested": sha(&[&nested]),
    })
}

/// `pattern` in the generator.
fn pattern(n: usize, seed: u64) -> Vec<f32> {
    let value = |i: u64| {
        let mut h = (i * 2654435761 + seed * 40503) & 0xFFFF_FFFF;
        h ^= h >> 16;
        h = (h * 0x45D9F3B) & 0xFFFF_FFFF;
        h ^= h >> 16;
        let t = (h >> 8) as f32 * 2f32.powi(-23) - 1.0;
        t * t * t * 0.1
    };
    (0..n as u64).map(value).collect()
}

#[test]
fn goldens_are_of_the_present_generator() {
    let script = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quant.py")).unwrap();
    let file = std::fs::read(golden("cases.safetensors")).unwrap();
    let (_, cases) = SafeTensors::read_metadata(&file).unwrap();
    let cases = cases.metadata().as_ref().unwrap()["generator_sha256"].clone();
    let json = |name| golden_json(name)["header"]["generator_sha256"].as_str().unwrap().to_owned();
    for (name, hash) in
        [("cases.safetensors", cases), ("digests.json", json("digests.json")), ("smollm2.json", json("smollm2.json"))]
    {
        assert_eq!(hash, sha(&[&script]), "`{name}` is stale: run `python tests/golden/quant.py MODEL.gguf`");
    }
}

#[test]
fn every_bit_is_bitsandbytes() {
    let path = golden("cases.safetensors");
    let file = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let cases: Vec<&str> = tensors.names().into_iter().filter_map(|n| n.strip_suffix(".values")).collect();
    assert_eq!(cases.len(), 47);
    for case in cases {
        // Such as `normal.nf4.64.double`.
        let [_, type_name, blocksize, kind] = case.split('.').collect::<Vec<_>>()[..] else { panic!("{case}") };
        let name = format!("{case}.weight");
        let values = tensors.tensor(&format!("{case}.values")).unwrap();
        let [rows, columns] = values.shape()[..] else { panic!("{case}") };

        let stored = from_state_dict(&name, &path, |key| tensors.tensor(key).ok()).unwrap().unwrap();
        let mut q = Quantized::quantize(
            &floats(&values),
            [rows, columns],
            quant_type(type_name),
            blocksize.parse().unwrap(),
            kind == "double",
        )
        .unwrap();
        q.dtype = stored.dtype.clone();
        assert_eq!(q, stored, "{case}");

        let written = to_state_dict(&name, &q).unwrap();
        let keys = tensors.names().into_iter().filter(|n| n.starts_with(&name)).count();
        assert_eq!(written.len(), keys, "{case}");
        for StateTensor { name, dtype, shape, data } in &written {
            let expected = tensors.tensor(name).unwrap();
            assert_eq!(
                (*dtype, &shape[..], &data[..]),
                (expected.dtype(), expected.shape(), expected.data()),
                "{name}"
            );
        }

        // bitsandbytes rounds to the type the weights had.
        let decoded = floats(&tensors.tensor(&format!("{case}.decoded")).unwrap());
        let ours = q.dequantize().into_iter().map(|v| match &*q.dtype {
            "bfloat16" => bf16::from_f32(v).to_f32(),
            "float16" => f16::from_f32(v).to_f32(),
            _ => v,
        });
        for (i, (ours, theirs)) in ours.zip(&decoded).enumerate() {
            assert!(ours == *theirs, "{case}: value {i} decodes to {ours}, not {theirs}");
        }
        assert_eq!(decoded.len(), q.values());
    }
}

#[test]
fn larger_tensors_have_bitsandbytes_digests() {
    let json = golden_json("digests.json");
    for case in json["cases"].as_array().unwrap() {
        let shape: [usize; 2] = serde_json::from_value(case["shape"].clone()).unwrap();
        let values = pattern(shape[0] * shape[1], case["seed"].as_u64().unwrap());
        let q =
            Quantized::quantize(&values, shape, quant_type(case["quant_type"].as_str().unwrap()), 64, true).unwrap();
        let digest = digest(&q);
        for (key, value) in digest.as_object().unwrap() {
            assert_eq!(*value, case[key], "`{key}` of {case}");
        }
    }
}

#[test]
fn any_range_decodes_like_the_whole() {
    let shape = [5, 77];
    let q = Quantized::quantize(&pattern(385, 9), shape, QuantType::Nf4, 32, true).unwrap();
    let (whole, absmax) = (q.dequantize(), q.absmax_values());
    for start in 0..whole.len() {
        for end in start..whole.len() {
            let mut out = vec![f32::NAN; end - start];
            q.decode_range(start..end, &absmax, &mut out);
            assert_eq!(out, whole[start..end], "{start}..{end}");
        }
    }
}

#[test]
fn weights_that_are_not_numbers_are_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = pattern(6 * 64, 1);
        values[64 * 4 + 3] = bad;
        values[64 * 5] = bad;
        let error = Quantized::quantize(&values, [6, 64], QuantType::Nf4, 64, true).unwrap_err();
        assert!(matches!(error, Error::Numeric { .. }));
        assert_eq!(
            error.to_string(),
            format!("weight at row 4, column 3 is {bad}. The weights are damaged; get the model again.")
        );
    }
}

#[test]
fn impossible_blocks_and_shapes_are_refused() {
    for blocksize in [0, 1, 16, 48, 8192] {
        let error = Quantized::quantize(&[1.0; 64], [1, 64], QuantType::Nf4, blocksize, false).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    for (values, shape) in [(64, [2, 64]), (0, [0, 64]), (64, [usize::MAX, 2])] {
        let error = Quantized::quantize(&vec![1.0; values], shape, QuantType::Nf4, 64, false).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
}

/// A stored weight, to damage.
struct Stored(HashMap<String, StateTensor>);

impl Stored {
    fn new() -> Self {
        let q = Quantized::quantize(&pattern(20 * 64, 3), [20, 64], QuantType::Nf4, 64, true).unwrap();
        Self(to_state_dict("w", &q).unwrap().into_iter().map(|t| (t.name.clone(), t)).collect())
    }

    fn read(&self) -> ferrotune::Result<Option<Quantized>> {
        from_state_dict("w", Path::new("model.safetensors"), |key| {
            let t = self.0.get(key)?;
            Some(TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap())
        })
    }

    fn replace(mut self, key: &str, dtype: Dtype, shape: Vec<usize>, data: Vec<u8>) -> Self {
        self.0.insert(key.into(), StateTensor { name: key.into(), dtype, shape, data });
        self
    }

    fn edit_json(self, from: &str, to: &str) -> Self {
        let json = String::from_utf8(self.0[STATE].data.clone()).unwrap();
        assert!(json.contains(from), "{json}");
        let json = json.replace(from, to).into_bytes();
        self.replace(STATE, Dtype::U8, vec![json.len()], json)
    }
}

const STATE: &str = "w.quant_state.bitsandbytes__nf4";

#[test]
fn damaged_state_dicts_name_the_tensor_and_the_file() {
    let f32s = |n: usize, v: f32| v.to_le_bytes().repeat(n);
    let cases = [
        ("w", Stored::new().replace("w", Dtype::U8, vec![639, 1], vec![0; 639])),
        ("w.absmax", Stored::new().replace("w.absmax", Dtype::U8, vec![19], vec![0; 19])),
        ("w.absmax", Stored::new().replace("w.absmax", Dtype::F32, vec![20], f32s(20, 1.0))),
        ("w.nested_absmax", Stored::new().replace("w.nested_absmax", Dtype::F32, vec![2], f32s(2, 1.0))),
        ("w.nested_absmax", Stored::new().replace("w.nested_absmax", Dtype::F32, vec![1], f32s(1, f32::NAN))),
        ("w.quant_map", Stored::new().replace("w.quant_map", Dtype::F32, vec![15], f32s(15, 0.5))),
        (STATE, Stored::new().replace(STATE, Dtype::U8, vec![1], b"{".to_vec())),
        (STATE, Stored::new().edit_json("\"nf4\"", "\"af4\"")),
        (STATE, Stored::new().edit_json("float32\", \"shape", "int8\", \"shape")),
        (STATE, Stored::new().edit_json("[20, 64]", "[20, 64, 1]")),
        (STATE, Stored::new().edit_json("[20, 64]", "[4294967296, 4294967296]")),
        (STATE, Stored::new().edit_json("\"blocksize\": 64", "\"blocksize\": 0")),
        (STATE, Stored::new().edit_json("\"nested_blocksize\": 256, ", "")),
        ("w", Stored::new().edit_json("[20, 64]", "[20, 65]")),
    ];
    let missing = ["w", "w.absmax", "w.nested_absmax", "w.nested_quant_map", "w.quant_map"].map(|key| {
        let mut stored = Stored::new();
        stored.0.remove(key);
        (key, stored)
    });
    for (key, stored) in cases.into_iter().chain(missing) {
        let error = stored.read().unwrap_err();
        assert!(matches!(error, Error::Tensor { .. }));
        assert!(error.to_string().starts_with(&format!("tensor `{key}` in `model.safetensors`: ")), "{error}");
    }
}

#[test]
fn a_weight_without_a_quant_state_is_not_four_bit() {
    let mut stored = Stored::new();
    stored.0.remove(STATE);
    assert_eq!(stored.read().unwrap(), None);
}

#[test]
fn the_stored_tables_are_used() {
    let plain = Stored::new().read().unwrap().unwrap();
    let halved: Vec<u8> = plain.code.iter().flat_map(|v| (v / 2.0).to_le_bytes()).collect();
    let q = Stored::new().replace("w.quant_map", Dtype::F32, vec![16], halved).read().unwrap().unwrap();
    let halves: Vec<f32> = plain.dequantize().iter().map(|v| v / 2.0).collect();
    assert_eq!(q.dequantize(), halves);

    let zeros = Stored::new().replace("w.nested_quant_map", Dtype::F32, vec![256], vec![0; 1024]);
    let q = zeros.read().unwrap().unwrap();
    let Absmax::Nested { offset, .. } = q.absmax else { panic!() };
    assert_eq!(q.absmax_values(), vec![offset; 20]);
}

#[test]
fn packed_bytes_may_be_stored_as_a_wider_type() {
    let plain = Stored::new().read().unwrap().unwrap();
    let wide = Stored::new().replace("w", Dtype::BF16, vec![320, 1], plain.packed.clone());
    assert_eq!(wide.read().unwrap().unwrap(), plain);
}

#[test]
fn int4_has_no_file_format() {
    let q = Quantized::quantize(&[0.5; 64], [1, 64], QuantType::Int4, 64, false).unwrap();
    let error = to_state_dict("w", &q).unwrap_err().to_string();
    assert_eq!(error, "`w` is quantized to int4, for which bitsandbytes has no file format. Use `nf4` or `fp4`.");
}

/// Half the widest gap between two neighbouring codes.
fn half_gap(quant_type: QuantType) -> f32 {
    let mut code = quant_type.code();
    code.sort_by(f32::total_cmp);
    code.windows(2).map(|w| (w[1] - w[0]) / 2.0).fold(0.0, f32::max)
}

fn matrix() -> impl Strategy<Value = (Vec<f32>, [usize; 2])> {
    let value = prop_oneof![4 => -1f32..1f32, 1 => -1e-6f32..1e-6f32, 1 => -1e6f32..1e6f32, 1 => Just(0.0)];
    (1usize..8, 1usize..100).prop_flat_map(move |(n, k)| (prop::collection::vec(value.clone(), n * k), Just([n, k])))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn lengths_and_errors_are_bounded((values, shape) in matrix(), power in 5u32..13, t in 0usize..3, double: bool) {
        let (quant_type, blocksize) = (TYPES[t], 1usize << power);
        let q = Quantized::quantize(&values, shape, quant_type, blocksize, double).unwrap();
        let absmax = q.absmax_values();
        prop_assert_eq!(q.packed.len(), values.len().div_ceil(2));
        prop_assert_eq!(absmax.len(), values.len().div_ceil(blocksize));
        let back = q.dequantize();
        prop_assert_eq!(back.len(), values.len());
        if !double {
            for (i, (v, b)) in values.iter().zip(&back).enumerate() {
                let bound = (half_gap(quant_type) + 2.0 * f32::EPSILON) * absmax[i / blocksize];
                prop_assert!((v - b).abs() <= bound, "value {i}: {v} became {b}, {bound} allowed");
            }
        }
    }

    #[test]
    fn decoded_values_encode_to_themselves((values, shape) in matrix(), power in 5u32..13, t in 0usize..3) {
        let (quant_type, blocksize) = (TYPES[t], 1usize << power);
        let q = Quantized::quantize(&values, shape, quant_type, blocksize, false).unwrap();
        let again = Quantized::quantize(&q.dequantize(), shape, quant_type, blocksize, false).unwrap();
        prop_assert_eq!(again.dequantize(), q.dequantize());
        // FP4 and INT4 hold zero twice; NF4 holds every value once.
        if quant_type == QuantType::Nf4 {
            prop_assert_eq!(again, q);
        }
    }

    #[test]
    fn double_quantization_is_close(seed in 0u64..1000, rows in 1usize..40) {
        let values = pattern(rows * 64, seed);
        let plain = Quantized::quantize(&values, [rows, 64], QuantType::Nf4, 64, false).unwrap();
        let double = Quantized::quantize(&values, [rows, 64], QuantType::Nf4, 64, true).unwrap();
        prop_assert_eq!(&plain.packed, &double.packed);
        let (exact, rounded) = (plain.absmax_values(), double.absmax_values());
        let mean = exact.iter().sum::<f32>() / exact.len() as f32;
        let spread = exact.iter().map(|v| (v - mean).abs()).fold(0.0, f32::max);
        // Half the dynamic map's widest gap, 0.9/64 wide, but for its lower end, where -1 is missing.
        for (e, r) in exact.iter().zip(&rounded) {
            prop_assert!((e - r).abs() <= spread * 0.0071 + mean * 1e-5, "{e} became {r}, spread {spread}");
        }
    }

    #[test]
    fn state_dicts_survive_the_round_trip((values, shape) in matrix(), t in 0usize..2, double: bool) {
        let q = Quantized::quantize(&values, shape, TYPES[t], 64, double).unwrap();
        let tensors = to_state_dict("w", &q).unwrap();
        let file = safetensors::serialize(tensors.iter().map(|t| (&t.name, t)), None).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let read = from_state_dict("w", Path::new("w"), |key| file.tensor(key).ok()).unwrap().unwrap();
        prop_assert_eq!(read, q);
    }
}

#[test]
fn tables_decode_what_they_are_given() {
    let table = ferrotune::quant::PairTable::new(&QuantType::Fp4.code());
    let mut out = [0.0; 4];
    decode(&table, &[0x3b, 0x0f], &[2.0], 64, 0, &mut out);
    assert_eq!(out, [2.0, -2.0, 0.0, -0.5]);
}

/// Every linear of SmolLM2-135M, read from its GGUF file and quantized, has the bytes that bitsandbytes makes of it.
#[test]
fn every_linear_of_smollm2_has_bitsandbytes_bytes() {
    let golden = golden_json("smollm2.json");
    let tensors = golden["tensors"].as_object().unwrap();
    assert_eq!(tensors.len(), 210);
    let pretrained = ferrotune::model::open(&ferrotune::hub::resolve("smollm2-135m").unwrap()).unwrap();
    for (name, expected) in tensors {
        let weight = pretrained.weights.tensor(name, DType::F32, &Device::Cpu).unwrap();
        let (out, input) = weight.dims2().unwrap();
        let values: Vec<f32> = weight.flatten_all().unwrap().to_vec1().unwrap();
        let found = digest(&Quantized::quantize(&values, [out, input], QuantType::Nf4, 64, true).unwrap());
        for key in ["packed", "absmax", "nested"] {
            assert_eq!(found[key], expected[key], "{name}: {key}");
        }
    }
}
