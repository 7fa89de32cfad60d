"""The drift of states that a prompt causes."""

import pytest
import torch
from softprompt.analysis.drift import drift
from softprompt.backbones import from_model
from softprompt.data import Examples, Ragged
from softprompt.errors import BadInput
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.prompt import Provenance, SoftPrompt


class TestDrift:
    def test_equals_the_states_that_transformers_gives(self, tiny_t5):
        """Against output_hidden_states; the last of those is behind the final norm, so one layer is compared."""
        backbone = from_model(*tiny_t5())
        prompt = SoftPrompt(torch.randn(2, 16), Provenance("x", backbone.identity()), repeats=2)
        rows = [[5, 6, 7, 1], [8, 9, 1]]
        flat = torch.tensor([token for row in rows for token in row])
        texts = Examples(Ragged(flat, torch.tensor([0, 4, 7])), None, [])
        found = drift(backbone, prompt, texts)
        prompt_batch = PromptBatch.of(prompt)
        firsts = []
        for row in rows:
            batch = TextBatch(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool), torch.zeros(1).long())
            embeds = torch.cat([prompt_batch.vectors[batch.owner], backbone.embeddings(batch.ids)], 1)
            firsts.append(backbone.stack(inputs_embeds=embeds, output_hidden_states=True).hidden_states[1][0, :4])
        states, vectors = torch.stack(firsts), prompt.expanded()
        assert len(found) == 2
        moved = ((states - vectors).norm(dim=-1) / vectors.norm(dim=-1)).mean()
        assert found[0].moved == pytest.approx(moved.item(), rel=1e-5)
        varies = ((states - states.mean(0)).square().sum() / states.square().sum()).sqrt()
        assert found[0].varies == pytest.approx(varies.item(), rel=1e-4)
        assert found[0].kept == pytest.approx(
            torch.cosine_similarity(states, vectors[None], -1).mean().item(), abs=1e-5
        )

    def test_refuses_what_has_no_such_positions(self, tiny_t5):
        t5 = from_model(*tiny_t5())
        texts = Examples(Ragged(torch.tensor([5, 1]), torch.tensor([0, 2])), None, [])
        with pytest.raises(BadInput, match="ordinary prompt"):
            drift(t5, SoftPrompt(torch.empty(0, 16), Provenance("x", t5.identity())), texts)
        empty = Examples(Ragged(torch.tensor([], dtype=torch.long), torch.tensor([0])), None, [])
        with pytest.raises(BadInput, match="measured on texts"):
            drift(t5, SoftPrompt(torch.ones(1, 16), Provenance("x", t5.identity())), empty)
