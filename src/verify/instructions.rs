//! Several of IFEval's instructions at once.

use super::ifeval;
use crate::types::verifier::Instruction;

/// Share of the instructions that `text` follows.
pub(super) fn share(instructions: &[Instruction], repaired: bool, text: &str) -> Option<f32> {
    let followed = followed(instructions, repaired, text).filter(|followed| !followed.is_empty())?;
    Some(followed.iter().filter(|followed| **followed).count() as f32 / followed.len() as f32)
}

/// Whether `text` follows each instruction.
pub(super) fn followed(instructions: &[Instruction], repaired: bool, text: &str) -> Option<Vec<bool>> {
    let follows = if repaired { ifeval::repaired::follows } else { ifeval::follows };
    instructions.iter().map(|instruction| follows(instruction, text)).collect()
}
