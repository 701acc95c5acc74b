"""What else but its language decides how a text is read: all that is handed from a command to the frontends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.featurize.text.dictionary import EMPTY, Dictionary
from headrace.featurize.text.languages.sinitic.polyphone_network import PolyphoneNetwork
from headrace.store.schema import FeatureSpec


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """Options of reading texts."""

    dictionary: Dictionary = EMPTY
    """Words with readings of their own."""
    g2pw: PolyphoneNetwork | None = None
    """Network that reads Chinese characters of several readings."""

    @property
    def recipe(self) -> dict[str, Any]:
        """Return what the recipe of `phones` keeps of them: the dictionary itself, and the digest of the network."""
        words = {"dictionary": self.dictionary.dump()} if self.dictionary else {}
        return words | ({"g2pw": self.g2pw.digest} if self.g2pw else {})


DEFAULT = ReadingOptions()


def of_specs(specs: Mapping[str, FeatureSpec]) -> ReadingOptions:
    """Return the options by which a store's texts are split into words and characters as when it was made.

    The network is not among them: it changes how characters sound, but neither the text in words nor how many phones
    a character has.
    """
    return ReadingOptions(Dictionary.load(str(recipe_of(specs).get("dictionary", ""))))


def recipe_of(specs: Mapping[str, FeatureSpec]) -> Mapping[str, Any]:
    """Return the recipe of the phones of a store; an empty one if it has none."""
    return specs["phones"].recipe if "phones" in specs else {}
