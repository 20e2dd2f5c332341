//! Instruction sets: which ones the processor has, and which of them this process may use.

use crate::{Error, Result};
use std::sync::OnceLock;

/// The variable that caps the choice.
const VARIABLE: &str = "FERROTUNE_ISA";

/// What products are written for. On one architecture, each set has all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Any processor.
    Portable,
    /// 64-bit ARM.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same with products of bf16.
    Avx512Bf16,
    /// Tiles of bf16, which the operating system must allow as well.
    Amx,
}

impl Isa {
    /// Every set, in the order of the enumeration.
    pub const ALL: [Self; 6] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Its name in `FERROTUNE_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Amx => "amx",
        }
    }

    /// Whether this processor has it.
    pub fn is_present(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_present()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.is_present() && is_x86_feature_detected!("avx512bf16"),
            // The standard library cannot ask for it yet; Linux lists it.
            #[cfg(target_arch = "x86_64")]
            Self::Amx => {
                let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
                let mut flags = super::line(&cpuinfo, "flags").unwrap_or_default().split_whitespace();
                Self::Avx512Bf16.is_present() && flags.any(|flag| flag == "amx_bf16")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The widest set that this process may use: what `FERROTUNE_ISA` names, else what the processor has.
    ///
    /// Errors: [`Error::Config`] where the variable names no set, or one that the processor lacks.
    pub fn allowed() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(name) if !name.is_empty() => capped(&name),
            _ => Ok(Self::best()),
        }
    }

    /// [`Isa::allowed`], looked up once; the processor's own where that is an error, which a program reports when it starts.
    pub(crate) fn in_use() -> Self {
        static IN_USE: OnceLock<Isa> = OnceLock::new();
        *IN_USE.get_or_init(|| Self::allowed().unwrap_or_else(|_| Self::best()))
    }

    fn best() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_present()).unwrap_or(Self::Portable)
    }
}

fn capped(name: &str) -> Result<Isa> {
    let present = Isa::ALL.into_iter().filter(|isa| isa.is_present()).map(Isa::name).collect::<Vec<_>>().join(", ");
    let hint = format!("Unset it, or choose one of: {present}.");
    let error = |what: String| Error::config(format!("`{VARIABLE}`"), what, hint.clone());
    match Isa::ALL.into_iter().find(|isa| isa.name() == name) {
        None => Err(error(format!("`{name}` is no instruction set"))),
        Some(isa) if !isa.is_present() => Err(error(format!("this processor does not have `{name}`"))),
        Some(isa) => Ok(isa),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_a_set_that_is_there() {
        assert!(matches!(capped("portable"), Ok(Isa::Portable)));
        for isa in Isa::ALL {
            assert_eq!(capped(isa.name()).ok(), isa.is_present().then_some(isa), "{isa:?}");
        }
        let error = capped("avx3").unwrap_err().to_string();
        assert!(error.contains("`avx3` is no instruction set") && error.contains("portable"), "{error}");
    }

    #[test]
    fn a_set_has_those_before_it() {
        let x86 = [Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];
        assert!(x86.windows(2).all(|pair| pair[0].is_present() || !pair[1].is_present()));
        assert!(Isa::best().is_present() && Isa::ALL.iter().all(|isa| *isa <= Isa::best() || !isa.is_present()));
    }
}
