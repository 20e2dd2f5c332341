//! What a LoRA adapter is, in PEFT's own words.

use std::collections::BTreeMap;

/// The linear layers that get an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// Every linear layer of the decoder blocks; the output layer is left alone, as in PEFT.
    AllLinear,
    /// Layers whose dotted name is one of these or ends in `.` and one of these.
    Names(Vec<String>),
}

impl TargetModules {
    /// Whether the layer called `module` (dotted, such as `model.layers.0.self_attn.q_proj`) gets an adapter.
    ///
    /// `module` must be a linear layer of a decoder block: [`TargetModules::AllLinear`] says yes to any name.
    pub fn matches(&self, module: &str) -> bool {
        match self {
            Self::AllLinear => true,
            Self::Names(names) => names.iter().any(|name| is_suffix(name, module)),
        }
    }
}

/// How the matrices A and B start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// A Kaiming-uniform with a = √5, B zero: PEFT's `true`.
    Default,
    /// A normal with standard deviation 1/r, B zero.
    Gaussian,
    /// A and B from the base weight's largest singular values (arXiv:2404.02948).
    Pissa,
    /// A and B from the base weight's QR factors (arXiv:2406.01775).
    Olora,
}

/// PEFT's `LoraConfig`, as far as it concerns a decoder's linear layers.
///
/// ```
/// use ferrotune::lora::config::LoraConfig;
///
/// let config = LoraConfig { r: 8, lora_alpha: 16.0, ..Default::default() };
/// assert_eq!(config.scaling(), 2.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank: A is `[r, in]`, B is `[out, r]`.
    pub r: usize,
    /// Numerator of the scaling.
    pub lora_alpha: f64,
    /// Probability with which an input element of A is dropped in training.
    pub lora_dropout: f64,
    pub target_modules: TargetModules,
    /// Scale by alpha/√r instead of alpha/r (arXiv:2312.03732).
    pub use_rslora: bool,
    /// Train the length of each row of the weight too (DoRA, arXiv:2402.09353).
    pub use_dora: bool,
    pub init_lora_weights: Init,
    /// Ranks of single layers, by (the end of) their dotted names.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of single layers, by (the end of) their dotted names.
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.05,
            target_modules: TargetModules::Names(names.map(String::from).into()),
            use_rslora: false,
            use_dora: false,
            init_lora_weights: Init::Default,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

impl LoraConfig {
    /// The factor before B·A where no pattern says otherwise: alpha/r, or alpha/√r with rsLoRA.
    pub fn scaling(&self) -> f64 {
        self.scale(self.r, self.lora_alpha)
    }

    /// The factor before B·A of the layer called `module`.
    pub fn scaling_for(&self, module: &str) -> f64 {
        self.scale(self.rank_for(module), self.alpha_for(module))
    }

    /// The rank of the layer called `module`: that of the first pattern that fits, else `r`.
    ///
    /// PEFT reads a pattern as a regular expression for the end of the name. Here it is the end of the name itself
    /// (`q_proj`, `layers.3.mlp.up_proj`), which is what such patterns hold in practice. Of several that fit, the first
    /// in alphabetical order counts, as it does in PEFT once a config was saved (its JSON is sorted).
    pub fn rank_for(&self, module: &str) -> usize {
        first_match(&self.rank_pattern, module).unwrap_or(self.r)
    }

    /// The alpha of the layer called `module`, by the rule of [`LoraConfig::rank_for`].
    pub fn alpha_for(&self, module: &str) -> f64 {
        first_match(&self.alpha_pattern, module).unwrap_or(self.lora_alpha)
    }

    fn scale(&self, r: usize, alpha: f64) -> f64 {
        let r = r as f64;
        alpha / if self.use_rslora { r.sqrt() } else { r }
    }
}

fn first_match<T: Copy>(pattern: &BTreeMap<String, T>, module: &str) -> Option<T> {
    pattern.iter().find(|(suffix, _)| is_suffix(suffix, module)).map(|(_, value)| *value)
}

/// Whether `suffix` is all of `name` or its end from a dot on: `q_proj` fits `a.q_proj`, not `a.xq_proj`.
fn is_suffix(suffix: &str, name: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_override_rank_and_alpha_by_the_end_of_the_name() {
        let config = LoraConfig {
            rank_pattern: BTreeMap::from([("q_proj".into(), 4), ("layers.1.mlp.up_proj".into(), 64)]),
            alpha_pattern: BTreeMap::from([("q_proj".into(), 2.0)]),
            ..Default::default()
        };
        assert_eq!(config.rank_for("model.layers.0.self_attn.q_proj"), 4);
        assert_eq!(config.scaling_for("model.layers.0.self_attn.q_proj"), 0.5);
        assert_eq!(config.rank_for("model.layers.1.mlp.up_proj"), 64);
        assert_eq!(config.rank_for("model.layers.11.mlp.up_proj"), 16);
        assert_eq!(config.rank_for("model.layers.0.self_attn.xq_proj"), 16);
    }

    #[test]
    fn rslora_divides_by_the_root_of_the_rank() {
        let config = LoraConfig { r: 16, lora_alpha: 32.0, use_rslora: true, ..Default::default() };
        assert_eq!(config.scaling(), 8.0);
    }
}
