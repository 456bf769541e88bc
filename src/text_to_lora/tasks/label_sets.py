"""Words that families use as new labels, and which of them are kept for validation."""

from __future__ import annotations

LABEL_SETS: dict[str, tuple[str, ...]] = {
    "letters": ("A", "B", "C", "D", "E", "F", "G", "H"),
    "late letters": ("W", "X", "Y", "Z", "Q", "R", "S", "T"),
    "digits": ("1", "2", "3", "4", "5", "6", "7", "8"),
    "tens": ("10", "20", "30", "40", "50", "60", "70", "80"),
    "roman numbers": ("I", "II", "III", "IV", "V", "VI", "VII", "VIII"),
    "fruits": ("mango", "pear", "lemon", "cherry", "plum", "banana", "melon", "grape"),
    "animals": ("fox", "bear", "camel", "otter", "zebra", "rabbit", "goat", "tiger"),
    "colours": ("red", "blue", "green", "yellow", "purple", "orange", "brown", "pink"),
    "metals": ("iron", "copper", "silver", "gold", "zinc", "lead", "tin", "nickel"),
    "weather": ("rain", "snow", "wind", "fog", "hail", "thunder", "frost", "sun"),
    "days": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "directions": ("north", "south", "east", "west", "up", "down", "left", "right"),
    "shapes": ("circle", "square", "triangle", "star", "cube", "line", "ring", "cone"),
    "rooms": ("kitchen", "cellar", "attic", "hall", "garage", "office", "porch", "pantry"),
    "tools": ("hammer", "saw", "drill", "wrench", "ladder", "nail", "axe", "rope"),
    "music": ("drum", "flute", "violin", "piano", "harp", "trumpet", "guitar", "bell"),
    "trees": ("oak", "pine", "maple", "birch", "willow", "cedar", "elm", "palm"),
    "greek letters": ("alpha", "beta", "gamma", "delta", "epsilon", "omega", "sigma", "kappa"),
    "invented": ("zib", "dax", "wug", "blick", "fep", "toma", "grund", "plim"),
    "invented pairs": ("foo", "bar", "baz", "qux", "quux", "corge", "grault", "garply"),
    "signs": ("+", "-", "*", "/", "=", "!", "?", "#"),
    "codes": ("K1", "K2", "K3", "K4", "K5", "K6", "K7", "K8"),
    "seasons and times": ("spring", "summer", "autumn", "winter", "dawn", "noon", "dusk", "night"),
    "vehicles": ("train", "boat", "truck", "bicycle", "plane", "tram", "canoe", "van"),
    "clothes": ("hat", "coat", "scarf", "boot", "glove", "shirt", "belt", "sock"),
    "drinks": ("tea", "coffee", "milk", "juice", "water", "cider", "cocoa", "soda"),
    "agreement": ("agree", "disagree", "perhaps", "always", "never", "often", "seldom", "maybe"),
    "marks": ("good", "bad", "fair", "poor", "best", "worst", "fine", "weak"),
    "planets": ("Mars", "Venus", "Saturn", "Jupiter", "Neptune", "Mercury", "Uranus", "Pluto"),
    "chess": ("king", "queen", "rook", "bishop", "knight", "pawn", "board", "clock"),
    "birds": ("crow", "swan", "eagle", "owl", "robin", "heron", "stork", "finch"),
    "stones": ("ruby", "opal", "jade", "pearl", "amber", "quartz", "marble", "granite"),
    "spices": ("pepper", "ginger", "mint", "basil", "thyme", "clove", "saffron", "cumin"),
    "invented for validation": ("vop", "niz", "kelb", "trosk", "mib", "jund", "slaff", "rorp"),
    "codes for validation": ("Z-5", "Z-6", "Z-7", "Z-8", "Z-9", "Z-11", "Z-12", "Z-13"),
}

YES_NO_WORDS: tuple[tuple[str, str], ...] = (
    ("yes", "no"),
    ("Yes", "No"),
    ("true", "false"),
    ("True", "False"),
    ("right", "wrong"),
    ("1", "0"),
    ("Y", "N"),
    ("correct", "incorrect"),
)

VALIDATION_LABEL_SETS: tuple[str, ...] = (
    "chess",
    "birds",
    "stones",
    "spices",
    "invented for validation",
    "codes for validation",
)
"""Never in training: that a set's words work as labels shows that the description was read.

Themes are whole, so that no neighbour of a validation word was trained as a label; the invented and
the coded set have no meaning that a base model could lean on.
"""

VALIDATION_WORDS: frozenset[str] = frozenset(
    word for name in VALIDATION_LABEL_SETS for word in LABEL_SETS[name]
)

UNSEEN_WORDS: frozenset[str] = frozenset({"turquoise"})
"""No family asks for these words, so that a demonstration can ask for one that is unseen."""
