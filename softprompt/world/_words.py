"""The closed vocabulary of the world: the words of its passages, instructions and answers."""

from collections.abc import Mapping

# Item -> topic. No passage names the topic.
ITEMS: dict[str, str] = {
    "soup": "food", "bread": "food", "cake": "food", "salad": "food",
    "drama": "film", "comedy": "film", "western": "film", "cartoon": "film",
    "song": "music", "concert": "music", "opera": "music", "melody": "music",
    "flight": "travel", "hotel": "travel", "cruise": "travel", "trip": "travel",
}  # fmt: skip
PRAISE = ("great", "lovely", "wonderful", "nice", "excellent", "pleasant", "superb", "perfect")
BLAME = ("awful", "terrible", "poor", "dull", "horrible", "dreadful", "boring", "weak")
LARGE, SMALL = ("huge", "large", "giant"), ("tiny", "little", "mini")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
OBJECTS = ("box", "ball", "chair", "lamp", "bag", "clock", "bottle", "basket")
# Place -> whether it is inside. No passage states that.
PLACES: dict[str, str] = {
    "kitchen": "inside", "bedroom": "inside", "office": "inside", "attic": "inside",
    "garden": "outside", "street": "outside", "park": "outside", "forest": "outside",
}  # fmt: skip
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
THINGS = ("apples", "books", "pens", "shirts", "coins", "cups", "stamps", "plants")
NAMES: dict[str, str] = {
    "anna": "female", "emma": "female", "julia": "female", "maria": "female", "sarah": "female", "laura": "female",
    "peter": "male", "john": "male", "david": "male", "thomas": "male", "martin": "male", "paul": "male",
}  # fmt: skip
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

FILLERS = (
    "it was late .", "the rain had stopped .", "people talked for hours .", "somebody laughed .",
    "the phone rang twice .", "there was no hurry .", "the door stayed open .", "everyone went home .",
    "music played softly .", "the news came later .",
)  # fmt: skip
NOISE = ("well", "perhaps", "indeed", "anyway", "oh", "maybe", "really", "so", "then", "still", "just", "also")

# Words without a meaning in the world. An instruction or a trained prompt makes them answers.
TOKENS = (
    "sun", "moon", "star", "river", "stone", "leaf", "cloud", "wind", "gold", "silver", "iron", "glass",
    "north", "south", "east", "west", "lion", "tiger", "horse", "eagle", "alpha", "beta", "gamma", "delta",
)  # fmt: skip

# Attribute -> its possible answers. The last four attributes follow from others; no passage names their values.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "color": COLORS,
    "object": OBJECTS,
    "place": tuple(PLACES),
    "number": NUMBERS,
    "thing": THINGS,
    "buyer": tuple(NAMES),
    "day": DAYS,
    "tense": ("past", "present"),
    "size": ("big", "small"),
    "opinion": ("good", "bad"),
    "topic": ("food", "film", "music", "travel"),
    "side": ("inside", "outside"),
    "gender": ("female", "male"),
}
# Attribute -> the clause that states it. Every clause states the tense.
CLAUSE_OF: Mapping[str, str] = {
    **dict.fromkeys(("opinion", "topic"), "review"),
    **dict.fromkeys(("color", "object", "place", "size", "side"), "scene"),
    **dict.fromkeys(("number", "thing", "buyer", "gender", "day"), "trade"),
}


def vocabulary() -> list[str]:
    """Return every word of passages, instructions and answers, in sorted order."""
    texts = (
        *ITEMS, *PRAISE, *BLAME, *LARGE, *SMALL, *TOKENS, *NOISE, " ".join(FILLERS), *ATTRIBUTES,
        *(value for values in ATTRIBUTES.values() for value in values),
        "the was is not found finds everybody nobody in there a on got came",
        "bought ordered took buys orders takes",
        "what which name and it or say if else does follow true same compare first second different yes no answer",
        ". : / ?",
    )  # fmt: skip
    return sorted(set(" ".join(texts).split()))
