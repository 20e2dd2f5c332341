//! What a run will need in memory and time, from the model's shape and the settings, before anything is allocated.
//!
//! Each term of [`Plan`] is what the trainer allocates for it, in bytes. With T tokens in a micro-batch, `c` bytes for a
//! number of the compute type, H the hidden and I the intermediate size, A = heads · head_dim and K = kv_heads · head_dim:
//!
//! - NF4 with double quantization: 4 bits for a weight, 8 for the scale of each 64 weights, 32 for each 256 scales:
//!   4.127 bits for a weight; without double quantization 4.5
//! - a layer keeps, for each token, its input, the middle of its residual stream (2H), q and the attention's output
//!   (2A), k and v (2K), gate and up (2I) in the compute type; log-sum-exp for each head, two inverse root mean squares,
//!   and r numbers for each adapted projection in f32. The normalized inputs and the activation are computed again.
//! - virtual tokens of prompt tuning are tokens like others
//! - with gradient checkpointing a layer keeps its input (H) only, and one layer at a time is in full
//! - the backward pass of a layer holds about 4I + 6H numbers for a token at once
//!
//! The process itself (code, tokenizer, allocator) is not counted.

mod adapters;
mod from_config;

pub use adapters::{Adapters, Target};
pub use from_config::measured_speed;

use serde::Serialize;

/// Weights in a block of NF4, and scales in a block of double quantization.
const BLOCK: u64 = 64;
const NESTED_BLOCK: u64 = 256;
/// Bytes for the logits of one chunk of tokens in the portable form; the fused one holds panels that fit the cache, and needs less.
pub const LOGITS_CHUNK: u64 = 32 << 20;

/// The sizes of a model, as its `config.json` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub layers: u64,
    pub hidden: u64,
    pub intermediate: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub vocab: u64,
    /// Whether the output layer is the embedding.
    pub tied: bool,
}

/// A linear layer of a decoder block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Projection {
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// PEFT's name for it.
    pub fn module_name(self) -> &'static str {
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"][self as usize]
    }

    /// Input and output features.
    fn features(self, shape: &Shape) -> (u64, u64) {
        let (hidden, attention) = (shape.hidden, shape.heads * shape.head_dim);
        match self {
            Self::Q => (hidden, attention),
            Self::K | Self::V => (hidden, shape.kv_heads * shape.head_dim),
            Self::O => (attention, hidden),
            Self::Gate | Self::Up => (hidden, shape.intermediate),
            Self::Down => (shape.intermediate, hidden),
        }
    }
}

impl Shape {
    /// Weights of one block's linear layer.
    fn weights(&self, projection: Projection) -> u64 {
        let (input, output) = projection.features(self);
        input * output
    }

    /// Weights of all blocks' linear layers.
    pub fn linear_parameters(&self) -> u64 {
        self.layers * Projection::ALL.iter().map(|&p| self.weights(p)).sum::<u64>()
    }

    /// Weights of the embedding, of the output layer where it is another one, and of the norms.
    pub fn other_parameters(&self) -> u64 {
        let tables = if self.tied { 1 } else { 2 };
        tables * self.vocab * self.hidden + (2 * self.layers + 1) * self.hidden
    }
}

/// What is trained, and how the frozen weights are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Every weight.
    Full,
    /// Adapters beside weights in the compute type.
    Lora(Adapters),
    /// Adapters beside linear layers in NF4.
    Qlora { adapters: Adapters, double_quant: bool },
    /// So many embeddings before every text, beside weights in the compute type.
    PromptTuning { virtual_tokens: u64 },
}

impl Method {
    fn adapters(&self) -> Option<&Adapters> {
        match self {
            Self::Full | Self::PromptTuning { .. } => None,
            Self::Lora(adapters) | Self::Qlora { adapters, .. } => Some(adapters),
        }
    }
}

/// The settings that decide about memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub method: Method,
    /// Bytes of a number of the compute type: 4 for f32, 2 for bf16.
    pub compute_bytes: u64,
    /// Tokens of one micro-batch: at most `per_device_train_batch_size · max_length`, and prompt tuning's virtual ones.
    pub tokens: u64,
    pub gradient_checkpointing: bool,
}

/// Bytes of a run at its peak, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The blocks' linear layers.
    pub weights: u64,
    /// Embedding, output layer and norms.
    pub embeddings: u64,
    /// LoRA's A and B, DoRA's magnitudes and the rows' norms, or the virtual tokens, f32; for full fine-tuning in bf16, the f32 masters
    /// of all weights.
    pub adapters: u64,
    /// One f32 for each trained parameter.
    pub gradients: u64,
    /// Two f32 for each trained parameter.
    pub optimizer: u64,
    /// What forward keeps for backward.
    pub activations: u64,
    /// What the backward pass of one layer holds besides.
    pub backward: u64,
    /// One chunk of logits, whose gradient takes their place.
    pub logits: u64,
    /// The largest linear layer decoded to f32 (QLoRA).
    pub workspace: u64,
    pub total: u64,
}

impl Plan {
    /// The plan of a run.
    ///
    /// ```
    /// use ferrotune::train::plan::{Adapters, Method, Plan, Projection, Settings, Shape};
    /// let shape = Shape {
    ///     layers: 30, hidden: 576, intermediate: 1536, heads: 9, kv_heads: 3, head_dim: 64, vocab: 49152, tied: true,
    /// };
    /// let adapters = Adapters::new(16, &Projection::ALL);
    /// let method = Method::Qlora { adapters, double_quant: true };
    /// let settings = Settings { method, compute_bytes: 4, tokens: 1024, gradient_checkpointing: true };
    /// let kept = Plan::new(&shape, &Settings { gradient_checkpointing: false, ..settings.clone() });
    /// let recomputed = Plan::new(&shape, &settings);
    /// assert!(recomputed.activations < kept.activations / 5 && recomputed.weights == kept.weights);
    /// ```
    pub fn new(shape: &Shape, settings: &Settings) -> Self {
        let c = settings.compute_bytes;
        let adapters = settings.method.adapters();
        let weights = match settings.method {
            Method::Qlora { double_quant, .. } => {
                let layer: u64 = Projection::ALL.iter().map(|&p| nf4_bytes(shape.weights(p), double_quant)).sum();
                shape.layers * layer
            }
            _ => c * shape.linear_parameters(),
        };
        let trained = trained_parameters(shape, &settings.method);
        let held = match (&settings.method, adapters) {
            (Method::Full, _) if c == 4 => 0,
            (_, adapters) => trained + adapters.map_or(0, |adapters| adapters.magnitudes(shape)),
        };
        let decoded = match settings.method {
            Method::Qlora { .. } => 4 * Projection::ALL.iter().map(|&p| shape.weights(p)).max().unwrap_or(0),
            _ => 0,
        };
        let mut plan = Self {
            weights,
            embeddings: c * shape.other_parameters(),
            adapters: 4 * held,
            gradients: 4 * trained,
            optimizer: 8 * trained,
            activations: activations(shape, adapters, settings),
            backward: c * settings.tokens * (4 * shape.intermediate + 6 * shape.hidden),
            logits: LOGITS_CHUNK,
            workspace: decoded,
            total: 0,
        };
        plan.total = plan.terms().iter().map(|(_, bytes)| bytes).sum();
        plan
    }

    /// Every term but the total, by name.
    pub fn terms(&self) -> [(&'static str, u64); 9] {
        [
            ("weights", self.weights),
            ("embeddings", self.embeddings),
            ("adapters", self.adapters),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("backward", self.backward),
            ("logits", self.logits),
            ("workspace", self.workspace),
        ]
    }
}

/// How many numbers are trained.
pub fn trained_parameters(shape: &Shape, method: &Method) -> u64 {
    match method {
        Method::Full => shape.linear_parameters() + shape.other_parameters(),
        Method::Lora(adapters) | Method::Qlora { adapters, .. } => {
            adapters.low_rank(shape) + adapters.magnitudes(shape)
        }
        Method::PromptTuning { virtual_tokens } => virtual_tokens * shape.hidden,
    }
}

fn nf4_bytes(weights: u64, double_quant: bool) -> u64 {
    let blocks = weights.div_ceil(BLOCK);
    let scales = if double_quant { blocks + 4 * blocks.div_ceil(NESTED_BLOCK) } else { 4 * blocks };
    weights.div_ceil(2) + scales
}

fn activations(shape: &Shape, adapters: Option<&Adapters>, settings: &Settings) -> u64 {
    let c = settings.compute_bytes;
    let low_rank = adapters.map_or(0.0, |a| a.targets.iter().map(|target| target.rank).sum()).ceil() as u64;
    let (attention, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let layer = c * 2 * (shape.hidden + attention + kv + shape.intermediate) + 4 * (shape.heads + 2 + low_rank);
    let input = c * shape.hidden;
    let layers = if settings.gradient_checkpointing { shape.layers * input + layer } else { shape.layers * layer };
    // The last layer's output and its gradient, which the loss hands over.
    settings.tokens * (layers + 2 * input)
}

/// Floating-point operations for one trained token, in sequences of `sequence` tokens on average.
///
/// A product with a weight costs 2 operations a weight forward, 2 backward to its input, 2 more where it is trained
/// itself, and 2 again where a checkpointed layer runs forward twice. Attention costs 2·sequence·A a layer forward
/// (half of a square, for scores and for values) and 2.5 times that backward. Adapters are left out: they are small.
pub fn flops_per_token(shape: &Shape, settings: &Settings, sequence: u64) -> f64 {
    let again = if settings.gradient_checkpointing { 1.0 } else { 0.0 };
    let trained = if settings.method == Method::Full { 1.0 } else { 0.0 };
    let linear = 2.0 * shape.linear_parameters() as f64 * (2.0 + trained + again);
    let head = 2.0 * (shape.vocab * shape.hidden) as f64 * (2.0 + trained);
    let attention = (2 * sequence * shape.layers * shape.heads * shape.head_dim) as f64 * (3.5 + again);
    linear + head + attention
}

/// How fast a machine is, measured or assumed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    TokensPerSecond(f64),
    FlopsPerSecond(f64),
}

/// A rough number of seconds for training on `tokens` tokens in all (every epoch counted).
pub fn seconds(shape: &Shape, settings: &Settings, sequence: u64, tokens: u64, speed: Speed) -> f64 {
    match speed {
        Speed::TokensPerSecond(rate) => tokens as f64 / rate,
        Speed::FlopsPerSecond(rate) => tokens as f64 * flops_per_token(shape, settings, sequence) / rate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOLLM2: Shape = Shape {
        layers: 30,
        hidden: 576,
        intermediate: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49152,
        tied: true,
    };

    fn settings(method: Method) -> Settings {
        Settings { method, compute_bytes: 4, tokens: 1024, gradient_checkpointing: false }
    }

    fn adapters() -> Adapters {
        Adapters::new(16, &Projection::ALL)
    }

    fn qlora() -> Settings {
        settings(Method::Qlora { adapters: adapters(), double_quant: true })
    }

    #[test]
    fn parameters_are_counted_as_published() {
        // 134,515,008 parameters in all (the model's card); 4,884,480 in adapters of rank 16, as PEFT counts them.
        assert_eq!(SMOLLM2.linear_parameters() + SMOLLM2.other_parameters(), 134_515_008);
        assert_eq!(trained_parameters(&SMOLLM2, &Method::Full), 134_515_008);
        assert_eq!(trained_parameters(&SMOLLM2, &Method::Lora(adapters())), 4_884_480);
        let untied = Shape { tied: false, ..SMOLLM2 };
        assert_eq!(untied.other_parameters() - SMOLLM2.other_parameters(), 49152 * 576);
    }

    #[test]
    fn nf4_takes_4_127_bits() {
        let bits = |double_quant| {
            let method = Method::Qlora { adapters: adapters(), double_quant };
            8.0 * Plan::new(&SMOLLM2, &settings(method)).weights as f64 / SMOLLM2.linear_parameters() as f64
        };
        assert!((bits(true) - 4.127).abs() < 0.001, "{}", bits(true));
        assert_eq!(bits(false), 4.5);
    }

    #[test]
    fn terms_are_what_the_trainer_allocates() {
        let plan = Plan::new(&SMOLLM2, &qlora());
        assert_eq!(plan.embeddings, 4 * (49152 * 576 + 61 * 576));
        assert_eq!(plan.adapters, 4 * 4_884_480);
        assert_eq!((plan.gradients, plan.optimizer), (plan.adapters, 2 * plan.adapters));
        // A token in a layer: 5,760 numbers of the compute type, and 9 + 2 + 7·16 others; then 2·576 after the layers.
        assert_eq!(plan.activations, 1024 * (30 * (4 * 5760 + 4 * 123) + 8 * 576));
        assert_eq!(plan.backward, 1024 * 4 * (4 * 1536 + 6 * 576));
        assert_eq!((plan.logits, plan.workspace), (LOGITS_CHUNK, 4 * 576 * 1536));
        assert_eq!(plan.total, plan.terms().iter().map(|(_, bytes)| bytes).sum::<u64>());
    }

    #[test]
    fn dora_adds_a_magnitude_and_a_norm_for_each_output() {
        let dora = Method::Lora(Adapters { dora: true, ..adapters() });
        let outputs = 30 * (576 + 192 + 192 + 576 + 1536 + 1536 + 576);
        assert_eq!(trained_parameters(&SMOLLM2, &dora), 4_884_480 + outputs);
        let plan = Plan::new(&SMOLLM2, &settings(dora));
        assert_eq!((plan.adapters, plan.gradients), (4 * (4_884_480 + 2 * outputs), 4 * (4_884_480 + outputs)));
    }

    #[test]
    fn checkpointing_keeps_inputs_and_one_layer() {
        let plan = Plan::new(&SMOLLM2, &Settings { gradient_checkpointing: true, ..qlora() });
        assert_eq!(plan.activations, 1024 * (30 * 4 * 576 + 4 * 5760 + 4 * 123 + 8 * 576));
    }

    #[test]
    fn activations_follow_tokens_and_type() {
        let half = Plan::new(&SMOLLM2, &Settings { tokens: 512, ..qlora() });
        assert_eq!(2 * half.activations, Plan::new(&SMOLLM2, &qlora()).activations);
        let narrow = Plan::new(&SMOLLM2, &Settings { compute_bytes: 2, ..qlora() });
        assert_eq!(narrow.activations, 1024 * (30 * (2 * 5760 + 4 * 123) + 4 * 576));
    }

    #[test]
    fn full_fine_tuning_needs_masters_only_beside_bf16() {
        let plan = Plan::new(&SMOLLM2, &settings(Method::Full));
        assert_eq!((plan.weights + plan.embeddings, plan.adapters), (4 * 134_515_008, 0));
        let narrow = Plan::new(&SMOLLM2, &Settings { compute_bytes: 2, ..settings(Method::Full) });
        assert_eq!((narrow.weights + narrow.embeddings, narrow.adapters), (2 * 134_515_008, 4 * 134_515_008));
        assert_eq!(narrow.optimizer, 8 * 134_515_008);
    }

    #[test]
    fn time_follows_the_known_multiples_of_the_weights() {
        let matmul = (SMOLLM2.linear_parameters() + 49152 * 576) as f64;
        assert_eq!(flops_per_token(&SMOLLM2, &qlora(), 0), 4.0 * matmul);
        assert_eq!(flops_per_token(&SMOLLM2, &settings(Method::Full), 0), 6.0 * matmul);
        let recomputed = Settings { gradient_checkpointing: true, ..qlora() };
        let extra = flops_per_token(&SMOLLM2, &recomputed, 0) - flops_per_token(&SMOLLM2, &qlora(), 0);
        assert_eq!(extra, 2.0 * SMOLLM2.linear_parameters() as f64);
        assert!(flops_per_token(&SMOLLM2, &qlora(), 512) > 4.0 * matmul);
        assert_eq!(seconds(&SMOLLM2, &qlora(), 512, 5000, Speed::TokensPerSecond(250.0)), 20.0);
        let per_token = flops_per_token(&SMOLLM2, &qlora(), 512);
        assert_eq!(seconds(&SMOLLM2, &qlora(), 512, 10, Speed::FlopsPerSecond(per_token)), 10.0);
    }

    #[test]
    fn projections_have_peft_names() {
        assert_eq!(Projection::Down.module_name(), "down_proj");
        assert_eq!(Projection::ALL.map(|p| p as usize), [0, 1, 2, 3, 4, 5, 6]);
    }
}
