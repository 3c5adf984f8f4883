//! The tensors of a model: their names and shapes, and how Hugging Face files hold them.

use super::{Family, ModelSpec, Projection};

/// Tensors of [`ModelSpec::tensors`], one below the other: name and shape of each.
pub(crate) type Parts = Vec<(String, Vec<usize>)>;

/// The norm before the head.
const LAST_NORM: &str = "model.norm.weight";

impl ModelSpec {
    /// The linears of a layer by their names in transformers, with the projections that each stands for.
    pub(crate) fn linears(&self) -> &'static [(&'static str, &'static [Projection])] {
        use Projection::{DownProj, GateProj, KProj, OProj, QProj, UpProj, VProj};
        match self.layer_spec.fused {
            false => &[
                ("self_attn.q_proj", &[QProj]),
                ("self_attn.k_proj", &[KProj]),
                ("self_attn.v_proj", &[VProj]),
                ("self_attn.o_proj", &[OProj]),
                ("mlp.gate_proj", &[GateProj]),
                ("mlp.up_proj", &[UpProj]),
                ("mlp.down_proj", &[DownProj]),
            ],
            true => &[
                ("self_attn.qkv_proj", &[QProj, KProj, VProj]),
                ("self_attn.o_proj", &[OProj]),
                ("mlp.gate_up_proj", &[GateProj, UpProj]),
                ("mlp.down_proj", &[DownProj]),
            ],
        }
    }

    /// Every tensor of the model: its Hugging Face name and its shape, `(outputs, inputs)` for a linear.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden;
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: Vec<usize>| tensors.push((format!("model.layers.{layer}.{name}"), shape));
            let norms = self.layer_spec.norm_names();
            norms.all().into_iter().flatten().for_each(|norm| add(&format!("{norm}.weight"), vec![hidden]));
            if self.layer_spec.qk_norm {
                let [q, k] = self.qk_norm_widths();
                add("self_attn.q_norm.weight", vec![q]);
                add("self_attn.k_norm.weight", vec![k]);
            }
            for projection in Projection::ALL {
                let (inputs, outputs) = projection.sizes(self);
                let name = format!("{}.{}", projection.module(), projection.name());
                add(&format!("{name}.weight"), vec![outputs, inputs]);
                if self.layer_spec.has_bias(projection) {
                    add(&format!("{name}.bias"), vec![outputs]);
                }
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab, hidden]));
        }
        tensors
    }

    /// Widths of the norms of queries and of keys.
    pub(crate) fn qk_norm_widths(&self) -> [usize; 2] {
        match self.layer_spec.post_norms {
            true => [self.heads * self.head_dim, self.kv_heads * self.head_dim],
            false => [self.head_dim, self.head_dim],
        }
    }

    /// Tensors as Hugging Face files hold them: the name of each, with the tensors of [`ModelSpec::tensors`] that make it up,
    /// one below the other.
    pub(crate) fn stored_tensors(&self) -> Vec<(String, Parts)> {
        let mut stored: Vec<(String, Parts)> = Vec::new();
        for (name, shape) in self.tensors() {
            let whole = self.layer_spec.fused_name(&name).unwrap_or_else(|| name.clone());
            match stored.iter_mut().rev().take(4).find(|(known, _)| *known == whole) {
                Some((_, parts)) => parts.push((name, shape)),
                None => stored.push((whole, vec![(name, shape)])),
            }
        }
        stored
    }

    /// The part of a fused tensor that the tensor `name` is: the fused tensor's name, its rows and the first row of the part;
    /// none where it is stored by itself.
    pub(crate) fn part_of_fused(&self, name: &str) -> Option<(String, usize, usize)> {
        let whole = self.layer_spec.fused_name(name)?;
        let (layer_module, kind) = name.rsplit_once('.')?;
        let (_, last) = layer_module.rsplit_once('.')?;
        let all = self.linears().iter().map(|(_, projections)| *projections);
        let group = all.into_iter().find(|group| group.iter().any(|projection| projection.name() == last))?;
        let rows = |projection: &Projection| projection.sizes(self).1;
        let first = group.iter().take_while(|projection| projection.name() != last).map(rows).sum();
        debug_assert!(kind == "weight" || kind == "bias", "linears have no other tensors");
        Some((whole, group.iter().map(rows).sum(), first))
    }

    /// Turns the tensor `name` of a Hugging Face file, if it is a norm, into the factors that are computed with.
    pub(crate) fn read_norm(&self, name: &str, values: &mut [f32]) {
        if self.family == Family::Gemma3 && name.ends_with("norm.weight") {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        if self.logit_divisor != 1.0 && name == LAST_NORM {
            values.iter_mut().for_each(|value| *value /= self.logit_divisor);
        }
    }

    /// The inverse of [`ModelSpec::read_norm`].
    pub(crate) fn written_norm(&self, name: &str, values: &mut [f32]) {
        if self.logit_divisor != 1.0 && name == LAST_NORM {
            values.iter_mut().for_each(|value| *value *= self.logit_divisor);
        }
        if self.family == Family::Gemma3 && name.ends_with("norm.weight") {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
    }

    /// Number of weights. A tied head counts once.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
