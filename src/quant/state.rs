//! bitsandbytes' state dict: the tensors that stand for one 4-bit weight in a checkpoint.
//!
//! For a weight `<name>`, such as `model.layers.0.mlp.up_proj.weight`:
//!
//! | key | type and shape |
//! |---|---|
//! | `<name>` | u8 `[ceil(out·in / 2), 1]`, or a wider type over the same bytes |
//! | `<name>.absmax` | u8 `[blocks]` if nested, else f32 `[blocks]` |
//! | `<name>.quant_map` | f32 `[16]` |
//! | `<name>.nested_absmax` | f32 `[ceil(blocks / 256)]`, if nested |
//! | `<name>.nested_quant_map` | f32 `[256]`, if nested |
//! | `<name>.quant_state.bitsandbytes__nf4` (or `__fp4`) | u8: JSON with the rest |
//!
//! Source: bitsandbytes 0.50 `functional.QuantState.as_dict`, `nn.Linear4bit._save_to_state_dict`.

use std::borrow::Cow;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{TensorView, View};
use serde::Deserialize;

use super::{Absmax, QuantType, Quantized, check_blocksize};
use crate::error::{Error, Result};

/// One tensor of a state dict, ready for [`safetensors::serialize`].
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Little-endian.
    pub data: Vec<u8>,
}

impl View for &StateTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        (&self.data).into()
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

/// What the state dict keeps as JSON.
#[derive(Deserialize)]
struct Info {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// The tensors that bitsandbytes saves for the weight `name`, to the byte.
///
/// Errors: [`Error::Config`] for `Int4`, which bitsandbytes cannot load.
pub fn to_state_dict(name: &str, q: &Quantized) -> Result<Vec<StateTensor>> {
    if q.quant_type == QuantType::Int4 {
        let what = format!("`{name}` is quantized to int4, for which bitsandbytes has no file format");
        return Err(Error::config("", what, "Use `nf4` or `fp4`."));
    }
    let tensor = |key: &str, dtype, shape, data| StateTensor { name: format!("{name}{key}"), dtype, shape, data };
    let floats = |key: &str, values: &[f32]| {
        tensor(key, Dtype::F32, vec![values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
    };
    let bytes = |key: &str, data: &[u8]| tensor(key, Dtype::U8, vec![data.len()], data.to_vec());

    let mut out = vec![tensor("", Dtype::U8, vec![q.packed.len(), 1], q.packed.clone())];
    let mut json = format!(
        r#"{{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{}, {}]"#,
        q.quant_type.name(),
        q.blocksize,
        q.dtype,
        q.shape[0],
        q.shape[1]
    );
    match &q.absmax {
        Absmax::Plain(absmax) => out.push(floats(".absmax", absmax)),
        Absmax::Nested { codes, code, absmax, blocksize, offset } => {
            out.push(bytes(".absmax", codes));
            out.push(floats(".nested_absmax", absmax));
            out.push(floats(".nested_quant_map", code));
            let offset = python_float((*offset).into());
            json +=
                &format!(r#", "nested_blocksize": {blocksize}, "nested_dtype": "float32", "nested_offset": {offset}"#);
        }
    }
    out.push(floats(".quant_map", &q.code));
    out.push(bytes(&state_key(q.quant_type), format!("{json}}}").as_bytes()));
    Ok(out)
}

fn state_key(quant_type: QuantType) -> String {
    format!(".quant_state.bitsandbytes__{}", quant_type.name())
}

/// A finite number as Python's `json` writes it.
fn python_float(v: f64) -> String {
    if v == 0.0 || (1e-4..1e16).contains(&v.abs()) {
        let text = v.to_string();
        return if text.contains('.') { text } else { text + ".0" };
    }
    let text = format!("{v:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// Reads the weight `name` from a checkpoint of bitsandbytes, or `None` if it is not stored in four bits.
///
/// - `path`: the checkpoint, for messages
/// - `lookup`: finds a tensor by its key
///
/// Decoding uses the tables that are stored, not the built-in ones.
///
/// Errors: [`Error::Tensor`] with the key and `path`, if a part is missing, has another type or length than the rest
/// asks for, or holds a number that is not finite.
pub fn from_state_dict<'a>(
    name: &str,
    path: &Path,
    lookup: impl Fn(&str) -> Option<TensorView<'a>>,
) -> Result<Option<Quantized>> {
    let found = [QuantType::Nf4, QuantType::Fp4].into_iter().find_map(|quant_type| {
        let key = format!("{name}{}", state_key(quant_type));
        lookup(&key).map(|state| (quant_type, key, state))
    });
    let Some((quant_type, key, state)) = found else { return Ok(None) };
    let reader = Reader { name, path, lookup };
    let info: Info = serde_json::from_slice(state.data())
        .map_err(|e| reader.error(&key, format!("its JSON cannot be read: {e}")))?;
    check_info(&info, quant_type).map_err(|what| reader.error(&key, what))?;
    let shape = match info.shape[..] {
        [rows, columns] if rows > 0 && columns > 0 && rows.checked_mul(columns).is_some() => [rows, columns],
        _ => return Err(reader.error(&key, format!("its shape is {:?}, not that of a matrix", info.shape))),
    };

    let len = shape[0] * shape[1];
    let blocks = len.div_ceil(info.blocksize);
    let packed = reader.view("")?.data();
    if packed.len() != len.div_ceil(2) {
        let what = format!("{} bytes, where {} x {} values need {}", packed.len(), shape[0], shape[1], len.div_ceil(2));
        return Err(reader.error(name, what));
    }
    let quant_map = reader.floats(".quant_map", 16)?;
    let absmax = match (info.nested_blocksize, info.nested_offset) {
        (Some(blocksize), Some(offset)) => Absmax::Nested {
            codes: reader.data(".absmax", Dtype::U8, blocks)?.to_vec(),
            code: reader.floats(".nested_quant_map", 256)?,
            absmax: reader.floats(".nested_absmax", blocks.div_ceil(blocksize))?,
            blocksize,
            offset: offset as f32,
        },
        _ => Absmax::Plain(reader.floats(".absmax", blocks)?),
    };
    Ok(Some(Quantized {
        quant_type,
        shape,
        blocksize: info.blocksize,
        packed: packed.to_vec(),
        code: std::array::from_fn(|i| quant_map[i]),
        absmax,
        dtype: info.dtype,
    }))
}

/// Says what in `info` cannot be used.
fn check_info(info: &Info, quant_type: QuantType) -> Result<(), String> {
    check_blocksize(info.blocksize)?;
    if info.quant_type != quant_type.name() {
        return Err(format!("its quant_type is `{}`, its key says `{}`", info.quant_type, quant_type.name()));
    }
    if !["float32", "bfloat16", "float16"].contains(&&*info.dtype) {
        return Err(format!("its dtype is `{}`, not `float32`, `bfloat16` or `float16`", info.dtype));
    }
    match (info.nested_blocksize, info.nested_dtype.as_deref(), info.nested_offset) {
        (None, None, None) => Ok(()),
        (Some(blocksize), Some("float32"), Some(offset)) if (offset as f32).is_finite() => check_blocksize(blocksize),
        _ => Err("its nested_blocksize, nested_dtype (`float32`) and nested_offset do not go together".into()),
    }
}

/// Finds the parts of one weight.
struct Reader<'r, L> {
    name: &'r str,
    path: &'r Path,
    lookup: L,
}

impl<'a, L: Fn(&str) -> Option<TensorView<'a>>> Reader<'_, L> {
    fn error(&self, key: &str, what: String) -> Error {
        Error::tensor(key, self.path, what, "The checkpoint is damaged or not from bitsandbytes; get or make it again.")
    }

    fn view(&self, part: &str) -> Result<TensorView<'a>> {
        let key = format!("{}{part}", self.name);
        (self.lookup)(&key).ok_or_else(|| self.error(&key, "missing, though the weight is stored in four bits".into()))
    }

    fn data(&self, part: &str, dtype: Dtype, len: usize) -> Result<&'a [u8]> {
        let view = self.view(part)?;
        if view.dtype() != dtype || view.shape().iter().product::<usize>() != len {
            let what =
                format!("{:?} of shape {:?}, where {dtype:?} of length {len} is needed", view.dtype(), view.shape());
            return Err(self.error(&format!("{}{part}", self.name), what));
        }
        Ok(view.data())
    }

    fn floats(&self, part: &str, len: usize) -> Result<Vec<f32>> {
        let (words, _) = self.data(part, Dtype::F32, len)?.as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|&w| f32::from_le_bytes(w)).collect();
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(i) => Err(self.error(&format!("{}{part}", self.name), format!("value {i} is {}", values[i]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::python_float;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.063_415_527_343_75, "0.06341552734375"),
            (1e-4, "0.0001"),
            (-9.5e-5, "-9.5e-05"),
            (1e-12, "1e-12"),
            (1e-38f32.into(), "9.999999350456404e-39"),
            (1e16, "1e+16"),
        ] {
            assert_eq!(python_float(value), text);
        }
    }
}
