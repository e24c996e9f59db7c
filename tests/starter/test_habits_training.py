from grounding.starter.habits_train import HabitsConfig, train
from grounding.starter.training import Schedule


def test_training_changes_the_words_and_leaves_the_tower(tmp_path):
    import torch

    from grounding.models.load import load

    folder = train(HabitsConfig(tmp_path, scenes=12, batch=2, text_batch=2, schedule=Schedule(steps=2, warmup=1)))
    before, after = (load(name, "cpu", "float32").model.state_dict() for name in ("starter", str(folder)))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("vision_tower" in name for name in changed)
