"""Composing the configurations of many cells in a fraction of the time that Hydra takes for them one by one.

Hydra reads every file anew for every cell and merges its own settings into each. Here files are read once, and Hydra's
own are left out; the result is what ``hydra.compose`` gives (a test compares them).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import GroupDefault, InputDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf, open_dict


class Composer:
    """Composes cells of the multirun that is going on."""

    def __init__(self, config_name: str, hydra_overrides: Sequence[str] = ()) -> None:
        """``hydra_overrides``: those of the multirun, of which ``hydra.searchpath`` matters."""
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        assert isinstance(hydra.config_loader, ConfigLoaderImpl)
        self._name, self._loader = config_name, hydra.config_loader
        _, found = self._loader._parse_overrides_and_create_caching_repo(config_name, list(hydra_overrides))
        self._files = _Files(found.delegate)
        self._chosen: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration with ``overrides``, without Hydra's own part. Raises what ``hydra.compose`` raises."""
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        groups = [one for one in parsed if self._files.group_exists(one.key_or_group)]
        # What is chosen from groups decides on everything but the values that are set afterwards, such as the seed.
        key = tuple(str(one.input_line) for one in groups)
        if key not in self._chosen:
            files = _OneCell(self._files)
            defaults = create_defaults_list(files, self._name, parsed, prepend_hydra=False, skip_missing=False)
            config = self._loader._compose_config_from_defaults_list(defaults.defaults, files)
            OmegaConf.set_struct(config, True)
            with open_dict(config):
                config.pop("hydra", None)
            self._chosen[key] = config
        config = copy.deepcopy(self._chosen[key])
        values = [one for one in parsed if one not in groups or isinstance(one.value(), dict)]
        self._loader._apply_overrides_to_config(values, config)
        return config


class _Files(CachingConfigRepository):
    """Every file as it was read the first time, with nothing that it says of Hydra's own groups.

    Composing changes lists of defaults, which are copied each time, and no content.
    """

    def __init__(self, delegate: IConfigRepository) -> None:
        super().__init__(delegate)
        self._there: dict[tuple[str, str], bool] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.cache:
            result = self.delegate.load_config(config_path=config_path)
            if result is not None and result.defaults_list is not None:
                result.defaults_list = [default for default in result.defaults_list if not _is_hydras(default)]
            self.cache[config_path] = result
        result = copy.copy(self.cache[config_path])
        if result is not None:
            result.defaults_list = copy.deepcopy(result.defaults_list)
        return result

    def group_exists(self, config_path: str) -> bool:
        key = "group", config_path
        if key not in self._there:
            self._there[key] = super().group_exists(config_path)
        return self._there[key]

    def config_exists(self, config_path: str) -> bool:
        key = "config", config_path
        if key not in self._there:
            self._there[key] = super().config_exists(config_path)
        return self._there[key]


def _is_hydras(default: InputDefault) -> bool:
    return isinstance(default, GroupDefault) and (default.group or "").lstrip("/").startswith("hydra/")


class _OneCell(CachingConfigRepository):
    """Within one cell a file is the same object, as Hydra expects."""

    def __init__(self, files: _Files) -> None:
        self.delegate, self.cache = files, {}
