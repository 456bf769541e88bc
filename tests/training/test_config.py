from pathlib import Path

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.training.config import RunConfig, load_recipe, recipes


def test_overrides_take_the_type_of_their_field() -> None:
    config = load_recipe(
        "mistral-7b",
        [
            "optimizer.lr=1e-4",
            "run.steps=7",
            "run.patience=null",
            "adapter.targets=[q_proj, o_proj]",
            "adapter.layers=[0, 3]",
            "base.revision=007",
            "data.in_prompt=false",
            "run.steps=8",
        ],
    )
    assert config.optimizer.lr == 1e-4
    assert config.run.steps == 8  # the later one wins
    assert config.run.patience is None
    assert config.adapter.targets == ("q_proj", "o_proj")
    assert config.adapter.layers == (0, 3)
    assert config.base.revision == "007"
    assert config.data.in_prompt == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=1", "unknown key 'optimizer.learning_rate', nearest '"),
        ("optimiser.lr=1", "unknown section 'optimiser', nearest 'optimizer'"),
        ("run.lr=1", "unknown key 'run.lr', nearest 'optimizer.lr'; run has steps, seed"),
        ("run.steps=many", "run.steps is 'many'; it should be a valid integer"),
        ("run.steps=0", "run.steps is '0'; it should be greater than or equal to 1"),
        ("run.steps=1.5", "run.steps is '1.5'; it should be a valid integer"),
        ("optimizer.lr=.nan", "optimizer.lr is '.nan'"),
        ("run.select_by=luck", "run.select_by is 'luck'; it should be 'seen_tasks'"),
        ("data.in_prompt=perhaps", "data.in_prompt is 'perhaps'; it should be a valid number"),
        ("steps=3", "override 'steps=3'; write it as section.field=value"),
        ("run.steps", "override 'run.steps'; write it as"),
        ("run.steps=[", "override 'run.steps=[': the value is not YAML"),
        ("data.family_share=0.5", "family_share is 0.5 but family_tasks is 0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("mistral-7b", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_may_extend_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: mistral-7b\nrun:\n  steps: 5\n")
    mine, parent = load_recipe(file), load_recipe("mistral-7b")
    assert mine.run.steps == 5
    assert mine.run.patience == parent.run.patience
    assert mine.base == parent.base


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {steps: 5}", "base is missing"),
        ("[1, 2]", "holds [1, 2]; sections with fields are needed"),
        ("base: {", "is not YAML"),
        ("extends: gone", "no recipe 'gone'"),
        ("extends: 3", "extends 3; name another recipe"),
        ("base: hello", "base is 'hello'"),
    ],
)
def test_a_broken_recipe_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'mistral' \(did you mean 'mistral-7b'\?\)"):
        load_recipe("mistral")
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"base: {name: \xe9}")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_recipe(file)


@pytest.mark.parametrize("name", recipes("sft"))
def test_settings_survive_json(name: str) -> None:
    config = load_recipe(name)
    assert RunConfig.from_dict(config.to_dict()) == config
