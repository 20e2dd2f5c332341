//! The types that a key may have: each is read from a TOML value and shown as one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Value;

use super::{ComputeDtype, Method, Resume, SchedulerType, Strategy, TemplateName};
use crate::lora::config::{Init, TargetModules};
use crate::prompt_tuning::PromptInit;
use crate::quant::QuantType;

/// Why a value is refused.
pub(super) enum Refusal {
    /// It is of another type or out of range.
    Unfit,
    /// It is a known value of a feature that is not there.
    Unavailable { feature: &'static str, hint: &'static str },
}

/// A type of setting. `read(show(x)) == x` for every value in range.
pub(super) trait Setting: Sized {
    fn read(value: &Value) -> Result<Self, Refusal>;
    /// `None` leaves the key out.
    fn show(&self) -> Option<Value>;
}

/// A setting that is read and `fits`.
pub(super) fn checked<T: Setting>(value: &Value, fits: impl Fn(&T) -> bool) -> Result<T, Refusal> {
    let setting = T::read(value)?;
    if fits(&setting) { Ok(setting) } else { Err(Refusal::Unfit) }
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, Refusal> {
        value.as_bool().ok_or(Refusal::Unfit)
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Setting for usize {
    fn read(value: &Value) -> Result<Self, Refusal> {
        value.as_integer().and_then(|n| Self::try_from(n).ok()).ok_or(Refusal::Unfit)
    }

    fn show(&self) -> Option<Value> {
        i64::try_from(*self).ok().map(Value::Integer)
    }
}

impl Setting for u64 {
    fn read(value: &Value) -> Result<Self, Refusal> {
        value.as_integer().and_then(|n| Self::try_from(n).ok()).ok_or(Refusal::Unfit)
    }

    fn show(&self) -> Option<Value> {
        i64::try_from(*self).ok().map(Value::Integer)
    }
}

/// transformers' way to leave a number of steps open: -1.
impl Setting for Option<usize> {
    fn read(value: &Value) -> Result<Self, Refusal> {
        if value.as_integer() == Some(-1) { Ok(None) } else { usize::read(value).map(Some) }
    }

    fn show(&self) -> Option<Value> {
        self.map_or(Some(Value::Integer(-1)), |n| n.show())
    }
}

impl Setting for f64 {
    fn read(value: &Value) -> Result<Self, Refusal> {
        let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        number.filter(|x| x.is_finite()).ok_or(Refusal::Unfit)
    }

    fn show(&self) -> Option<Value> {
        Some(if self.fract() == 0.0 && self.abs() < 1e15 { Value::Integer(*self as i64) } else { Value::Float(*self) })
    }
}

/// A number that is left out where it is not set.
impl Setting for Option<f64> {
    fn read(value: &Value) -> Result<Self, Refusal> {
        f64::read(value).map(Some)
    }

    fn show(&self) -> Option<Value> {
        self.and_then(|number| number.show())
    }
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, Refusal> {
        value.as_str().map(Self::from).ok_or(Refusal::Unfit)
    }

    fn show(&self) -> Option<Value> {
        (!self.is_empty()).then(|| Value::String(self.clone()))
    }
}

impl Setting for Option<String> {
    fn read(value: &Value) -> Result<Self, Refusal> {
        String::read(value).map(Some)
    }

    fn show(&self) -> Option<Value> {
        self.as_ref().and_then(Setting::show)
    }
}

impl Setting for PathBuf {
    fn read(value: &Value) -> Result<Self, Refusal> {
        String::read(value).map(Self::from)
    }

    fn show(&self) -> Option<Value> {
        self.to_string_lossy().into_owned().show()
    }
}

impl Setting for Option<PathBuf> {
    fn read(value: &Value) -> Result<Self, Refusal> {
        PathBuf::read(value).map(Some)
    }

    fn show(&self) -> Option<Value> {
        self.as_ref().and_then(Setting::show)
    }
}

impl Setting for Option<Resume> {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::Boolean(false) => Ok(None),
            Value::String(word) if word == "auto" => Ok(Some(Resume::Auto)),
            Value::String(path) if !path.is_empty() => Ok(Some(Resume::From(path.into()))),
            _ => Err(Refusal::Unfit),
        }
    }

    fn show(&self) -> Option<Value> {
        match self {
            None => Some(Value::Boolean(false)),
            Some(Resume::Auto) => Some("auto".into()),
            Some(Resume::From(path)) => path.show(),
        }
    }
}

impl Setting for TargetModules {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value {
            Value::String(word) if word == "all-linear" => Ok(Self::AllLinear),
            Value::Array(names) if !names.is_empty() => {
                let name = |v: &Value| v.as_str().filter(|s| is_module_name(s)).map(String::from);
                names.iter().map(name).collect::<Option<_>>().map(Self::Names).ok_or(Refusal::Unfit)
            }
            _ => Err(Refusal::Unfit),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(match self {
            Self::AllLinear => "all-linear".into(),
            Self::Names(names) => Value::Array(names.iter().map(|name| name.as_str().into()).collect()),
        })
    }
}

impl<T> Setting for BTreeMap<String, T>
where
    T: Setting,
{
    fn read(value: &Value) -> Result<Self, Refusal> {
        let table = value.as_table().ok_or(Refusal::Unfit)?;
        let entry = |(name, value): (&String, &Value)| {
            if is_module_name(name) { Ok((name.clone(), T::read(value)?)) } else { Err(Refusal::Unfit) }
        };
        table.iter().map(entry).collect()
    }

    fn show(&self) -> Option<Value> {
        let entry = |(name, value): (&String, &T)| Some((name.clone(), value.show()?));
        (!self.is_empty()).then(|| Value::Table(self.iter().filter_map(entry).collect()))
    }
}

/// Whether `name` can be (the end of) a module's dotted name; a regular expression cannot.
fn is_module_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

impl Setting for Init {
    fn read(value: &Value) -> Result<Self, Refusal> {
        let hint = "Use `true` or `\"gaussian\"`.";
        match value {
            Value::Boolean(true) => Ok(Self::Default),
            Value::String(word) if word == "gaussian" => Ok(Self::Gaussian),
            Value::String(word) if word == "pissa" => Err(Refusal::Unavailable { feature: "PiSSA", hint }),
            Value::String(word) if word == "olora" => Err(Refusal::Unavailable { feature: "OLoRA", hint }),
            _ => Err(Refusal::Unfit),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(match self {
            Self::Default => Value::Boolean(true),
            Self::Gaussian => "gaussian".into(),
            Self::Pissa => "pissa".into(),
            Self::Olora => "olora".into(),
        })
    }
}

impl Setting for Method {
    fn read(value: &Value) -> Result<Self, Refusal> {
        match value.as_str() {
            Some("full") => Ok(Self::Full),
            Some("lora") => Ok(Self::Lora),
            Some("qlora") => Ok(Self::Qlora),
            Some("prompt-tuning") => Ok(Self::PromptTuning),
            _ => Err(Refusal::Unfit),
        }
    }

    fn show(&self) -> Option<Value> {
        let word = match self {
            Self::Full => "full",
            Self::Lora => "lora",
            Self::Qlora => "qlora",
            Self::PromptTuning => "prompt-tuning",
        };
        Some(word.into())
    }
}

/// A setting that is one of a few words.
macro_rules! words {
    ($type:ty: $($word:literal = $value:path),+) => {
        impl Setting for $type {
            fn read(value: &Value) -> Result<Self, Refusal> {
                match value.as_str() {
                    $(Some($word) => Ok($value),)+
                    _ => Err(Refusal::Unfit),
                }
            }

            fn show(&self) -> Option<Value> {
                match self {
                    $(value if *value == $value => Some($word.into()),)+
                    _ => None,
                }
            }
        }
    };
}

const NF4: Option<QuantType> = Some(QuantType::Nf4);
const FP4: Option<QuantType> = Some(QuantType::Fp4);
const NO_QUANTIZATION: Option<QuantType> = None;

words!(PromptInit: "SAMPLE_VOCAB" = PromptInit::SampleVocab, "RANDOM" = PromptInit::Random, "TEXT" = PromptInit::Text);
words!(TemplateName: "alpaca" = TemplateName::Alpaca, "chat" = TemplateName::Chat);
words!(ComputeDtype: "bfloat16" = ComputeDtype::Bfloat16, "float32" = ComputeDtype::Float32);
words!(Strategy: "no" = Strategy::No, "steps" = Strategy::Steps, "epoch" = Strategy::Epoch);
words!(Option<QuantType>: "nf4" = NF4, "fp4" = FP4, "none" = NO_QUANTIZATION);
words!(SchedulerType:
    "cosine" = SchedulerType::Cosine, "linear" = SchedulerType::Linear, "constant" = SchedulerType::Constant,
    "constant_with_warmup" = SchedulerType::ConstantWithWarmup);
