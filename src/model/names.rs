//! Names of weights: Hugging Face's, which the whole library uses, and GGUF's.

use crate::model::Config;

/// The input embedding, `[vocab_size, hidden_size]`.
pub const EMBED_TOKENS: &str = "model.embed_tokens.weight";
/// The scale of the last normalization, `[hidden_size]`.
pub const FINAL_NORM: &str = "model.norm.weight";
/// The output projection, `[vocab_size, hidden_size]`; absent where it is tied to [`EMBED_TOKENS`].
pub const LM_HEAD: &str = "lm_head.weight";

/// The linear layers of a block by path and short name, in the order in which the forward pass meets them.
pub const LINEARS: [(&str, &str); 7] = [
    ("self_attn.q_proj", "q_proj"),
    ("self_attn.k_proj", "k_proj"),
    ("self_attn.v_proj", "v_proj"),
    ("self_attn.o_proj", "o_proj"),
    ("mlp.gate_proj", "gate_proj"),
    ("mlp.up_proj", "up_proj"),
    ("mlp.down_proj", "down_proj"),
];

/// The two normalizations of a block.
pub const NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

/// GGUF's names inside a block `blk.{i}.`, and Hugging Face's inside `model.layers.{i}.`.
const GGUF_BLOCK: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const GGUF_TOP: [(&str, &str); 3] =
    [("token_embd.weight", EMBED_TOKENS), ("output_norm.weight", FINAL_NORM), ("output.weight", LM_HEAD)];

/// The weight of a part of a block, such as `self_attn.q_proj` or `input_layernorm`.
pub fn block_weight(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.{part}.weight")
}

/// The Hugging Face name of a GGUF tensor; `None` for one that is no weight (`rope_freqs.weight`).
pub fn from_gguf(name: &str) -> Option<String> {
    if let Some((_, hf)) = GGUF_TOP.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*hf).into());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let part = part.strip_suffix(".weight")?;
    let (_, hf) = GGUF_BLOCK.iter().find(|(gguf, _)| *gguf == part)?;
    Some(block_weight(layer.parse().ok()?, hf))
}

/// The GGUF name of a weight; the inverse of [`from_gguf`].
pub fn to_gguf(name: &str) -> Option<String> {
    if let Some((gguf, _)) = GGUF_TOP.iter().find(|(_, hf)| *hf == name) {
        return Some((*gguf).into());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let part = part.strip_suffix(".weight")?;
    let (gguf, _) = GGUF_BLOCK.iter().find(|(_, hf)| *hf == part)?;
    Some(format!("blk.{}.{gguf}.weight", layer.parse::<usize>().ok()?))
}

/// Every weight that a model of this config has, with its shape (`[out, in]` for matrices), made one at a time.
pub fn expected(config: &Config) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
    let c = config;
    let (h, ffn) = (c.hidden_size, c.intermediate_size);
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let linears = [[q, h], [kv, h], [kv, h], [h, q], [ffn, h], [ffn, h], [h, ffn]];
    let head = (!c.tie_word_embeddings).then(|| (LM_HEAD.to_string(), vec![c.vocab_size, h]));
    let blocks = (0..c.num_hidden_layers).flat_map(move |i| {
        let norms = NORMS.iter().map(move |n| (block_weight(i, n), vec![h]));
        norms.chain(LINEARS.iter().zip(linears).map(move |((path, _), s)| (block_weight(i, path), s.to_vec())))
    });
    [(EMBED_TOKENS.to_string(), vec![c.vocab_size, h]), (FINAL_NORM.to_string(), vec![h])]
        .into_iter()
        .chain(head)
        .chain(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gguf_names_map_both_ways() {
        for name in ["token_embd.weight", "output_norm.weight", "output.weight", "blk.12.attn_output.weight"] {
            let hf = from_gguf(name).unwrap_or_default();
            assert_eq!(to_gguf(&hf).as_deref(), Some(name), "through `{hf}`");
        }
        assert_eq!(from_gguf("blk.3.ffn_gate.weight").as_deref(), Some("model.layers.3.mlp.gate_proj.weight"));
        for odd in ["rope_freqs.weight", "blk.x.attn_q.weight", "blk.1.attn_q.bias", "blk.1.ssm.weight"] {
            assert_eq!(from_gguf(odd), None, "{odd}");
        }
    }
}
