"""From a command line to the plain configuration of every cell, through Hydra's override parser and compose."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import harness
from harness.runs.errors import InputError
from harness.runs.trusted import check_targets, typed_targets

LITERAL = ("executor.gpus",)
"""Keys whose commas belong to the value."""

Grid = dict[str, str]
"""Override text by key, as typed; commas, range() and glob() span the grid."""


@dataclass(frozen=True)
class Composed:
    """One cell before types: its values, the option taken in each group, and the overrides that made it.

    `missing` says why a cell of an experiment cannot run here; it has no values then.
    """

    values: dict[str, Any]
    choices: dict[str, str]
    overrides: Grid
    missing: str | None = None


@dataclass(frozen=True)
class Configs:
    """The configuration folders: the shipped one, then the user's."""

    folders: tuple[Path, ...]

    @classmethod
    def find(cls, extra: Sequence[str] = ()) -> Configs:
        """The shipped folder (harness/conf in a wheel, conf in a checkout) and the user's `--config-dir`s."""
        package = Path(harness.__file__).parent
        shipped = next(p for p in (package / "conf", package.parent / "conf") if p.is_dir())
        for folder in extra:
            if not Path(folder).is_dir():
                raise InputError(f"--config-dir {folder} is not a folder")
        return cls((shipped, *(Path(folder).resolve() for folder in extra)))

    def groups(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(sorted({p.name for folder in self.folders for p in folder.iterdir() if p.is_dir()}))

    def options(self, group: str) -> dict[str, Path]:
        """Files of a group by name."""
        found = {p.stem: p for folder in reversed(self.folders) for p in (folder / group).glob("*.yaml")}
        return dict(sorted(found.items()))

    def choose(self, group: str, name: str) -> Path:
        """The file of one option; raises InputError that lists the known ones."""
        known = self.options(group)
        if name not in known:
            raise InputError(f"unknown {group} {name!r}; known: {', '.join(known) or 'none'}")
        return known[name]


def compose_all(arguments: Sequence[str], configs: Configs) -> list[Composed]:
    """Every cell of the grid that the overrides (`key=value`) of a command span, in order, equal ones once.

    Raises:
        InputError: an override cannot be read or names an unknown option. Unknown ones in experiments are `missing`.
    """
    from harness.runs.experiment import Experiment

    for name in split(arguments)[0]:
        if name in configs.options("experiment"):
            raise InputError(f"expected key=value, got {name!r}; did you mean experiment={name}?")
    overrides = parse(arguments)
    allowed = {*typed_targets(overrides), *overrides.pop("allow", "").strip("[]").replace(" ", "").split(",")}
    for key, text in overrides.items():
        check_options(key, text, configs)
    if "experiment" in overrides:
        names = _values("experiment", overrides.pop("experiment"), configs)
        spans = [(name, span) for name in names for span in Experiment.read(name, configs).spans(configs, overrides)]
        cells = [({**span.overrides, "experiment": name}, span.missing) for name, span in spans]
        if not cells:
            raise InputError(f"nothing to run: no cells in {', '.join(names)}")
    else:
        cells = [(cell, None) for cell in expand(overrides, configs)]
    once = {tuple(sorted(cell.items())): (cell, missing) for cell, missing in cells}
    return list(compose_cells(list(once.values()), configs, allowed))


def parse(arguments: Sequence[str]) -> Grid:
    """Overrides by key; a later one replaces an earlier one."""
    grid: Grid = {}
    for argument in arguments:
        key, equals, value = argument.lstrip("+").partition("=")
        if not equals or not key.replace("_", "").replace(".", "").isalnum():
            raise InputError(f"expected key=value, got {argument!r}")
        grid[key] = value
    return grid


def split(arguments: Sequence[str]) -> tuple[list[str], Grid]:
    """Names and overrides of a command that takes both."""
    return [text for text in arguments if "=" not in text], parse([text for text in arguments if "=" in text])


def expand(grid: Mapping[str, str], configs: Configs) -> Iterator[Grid]:
    """Every combination of the values of a grid, the first key slowest."""
    values = [_values(key, text, configs) for key, text in grid.items()]
    for combination in itertools.product(*values):
        yield dict(zip(grid, combination, strict=True))


def check_options(key: str, text: str, configs: Configs) -> None:
    """Raise InputError if `key` is a group and `text` names an option that it lacks."""
    if key in configs.groups():
        for value in _values(key, text, configs):
            configs.choose(key, value)


def _values(key: str, text: str, configs: Configs) -> list[str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    if key in LITERAL:
        return [text]
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
        if not override.is_sweep_override():
            values = [text]
        elif isinstance(glob := override.value(), Glob):
            values = glob.filter(list(configs.options(key)))
        else:
            values = list(override.sweep_string_iterator())
    except HydraException as error:
        reason = str(error).splitlines()[0].partition(" expecting ")[0]
        raise InputError(f"cannot read {key}={text}: {reason}") from None
    if not values:
        raise InputError(f"{key}={text} matches nothing; known: {', '.join(configs.options(key)) or 'none'}")
    return values


def compose_cells(
    cells: Sequence[tuple[Grid, str | None]], configs: Configs, allowed: Collection[str] = ()
) -> Iterator[Composed]:
    """Each cell composed; those with a reason why they cannot run, and those that name an unknown option, `missing`.

    `allowed`: classes and packages, besides ours, that files may name. Raises InputError.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    shipped, *extra = map(str, configs.folders)
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in extra)}]"] if extra else []
    groups = configs.groups()
    options, defaults = {group: configs.options(group) for group in groups}, _defaults(configs)
    with initialize_config_dir(shipped, version_base="1.3"):
        base = cache(_base)
        option: Callable[[str, str], Any] = cache(
            lambda group, name: OmegaConf.to_container(compose(f"{group}/{name}"))
        )
        for cell, missing in cells:
            if missing := missing or absent(cell, options):
                chosen = {group: cell[group] for group in groups if group in cell}
                yield Composed({}, {**defaults, **chosen}, cell, missing)
                continue
            typed = {k: v for k, v in cell.items() if k != "experiment"}
            named = {k: v for k, v in typed.items() if k in groups}
            # ++ accepts keys that no file names, so that our own types, not Hydra, say what is known.
            if reading := [f"{key}={text}" for key, text in cell.items() if "${oc.env" in text]:
                raise InputError(f"{reading[0]}: overrides cannot read the environment (oc.env)")
            single = [f"++{k}={_quoted(k, v)}" for k, v in typed.items() if k not in groups]
            try:
                # Hydra finds single options in the shipped folder alone; with other folders, all is composed at once.
                values, taken = base(*(f"{k}={v}" for k, v in named.items() if extra), *search)
                values = dict(values)
                for group, name in named.items() if not extra else ():
                    values |= option(group, name)  # composed once, as many cells share it
                linked = "${" in str(values) or "???" in str(values)  # Hydra's marks of references and gaps
                changed = {key.partition(".")[0] for key in typed.keys() - named.keys()}
                own = OmegaConf.create({k: v for k, v in values.items() if linked or k in changed})  # slow where large
                for override in OverridesParser.create().parse_overrides(single):
                    OmegaConf.update(own, override.key_or_group, override.value(), merge=True, force_add=True)
                choices = {k: v for k, v in taken.items() if k in groups} | named
                plain = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
                assert isinstance(plain, dict)
                plain = copy.deepcopy(values) | plain
            except (HydraException, OmegaConfBaseException) as error:
                at = f"{key}: " if (key := getattr(error, "full_key", None)) else ""
                raise InputError(f"{at}{str(error).splitlines()[0]}") from None
            except (YAMLError, UnicodeError, OSError) as error:
                files = [options[group][name] for group, name in {**defaults, **cell}.items() if group in groups]
                raise InputError(_damage(files, error)) from None
            for group in groups:
                if not isinstance(plain.get(group, {}), dict):
                    raise InputError(f"{group}={choices[group]} must be a group of keys, got {plain[group]!r}")
            check_targets(plain, allowed)
            for group in ("pruner", "addon", "benchmark"):
                if target := cell.get(f"{group}._target_"):  # no longer what the option's name says
                    choices[group] = target.rpartition(".")[2]
            found = {str(k): v for k, v in plain.items()} | {"experiment": cell.get("experiment")}
            yield Composed(found, choices, cell)


def _base(*overrides: str) -> tuple[dict[Any, Any], dict[str, str]]:
    """run.yaml with these options of its groups or those that it takes, and their names."""
    from hydra import compose
    from omegaconf import OmegaConf

    config = compose("run", list(overrides), return_hydra_config=True)
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    if "${oc.env" in OmegaConf.to_yaml(own):
        named = " ".join(text for text in overrides if not text.startswith("hydra."))
        raise InputError(f"{named}: configuration files cannot read the environment (oc.env)")
    plain = OmegaConf.to_container(own)
    assert isinstance(plain, dict)
    return plain, dict(config.hydra.runtime.choices)


def _damage(files: Sequence[Path], error: Exception) -> str:
    """What is wrong with the first file that cannot be read, in one line."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    for file in files:
        try:
            OmegaConf.load(file)
        except (YAMLError, UnicodeError, OSError) as found:
            return f"{file} cannot be read: {' '.join(str(found).split())}"
    return f"a configuration file cannot be read: {' '.join(str(error).split())}"


def absent(cell: Grid, options: Mapping[str, Collection[str]]) -> str | None:
    """What a cell names that is not among the options of its group, if anything."""
    for group, known in options.items():
        if group in cell and cell[group] not in known:
            return f"no {group} {cell[group]!r} here"
    return None


def _defaults(configs: Configs) -> dict[str, str]:
    """The option of each group that run.yaml takes."""
    from omegaconf import OmegaConf

    entries = OmegaConf.load(configs.folders[0] / "run.yaml").defaults
    return {str(group): str(name) for entry in entries if entry != "_self_" for group, name in entry.items()}


def _quoted(key: str, text: str) -> str:
    return "'" + text.strip("'\"") + "'" if key in LITERAL else text
