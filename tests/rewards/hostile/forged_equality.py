# ruff: noqa: E501 - programs are written as they would be sent
"""Results that claim to equal whatever they are compared with."""

_EVERY = ("call", "call_list", "assert", "check", "assert_unittest")
_LIAR = """
class Liar(@BASE@):
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    def __lt__(self, other):
        return True
    __le__ = __gt__ = __ge__ = __lt__
    def __hash__(self):
        return 0
    def __sub__(self, other):
        return 0
    __rsub__ = __add__ = __sub__
    def __abs__(self):
        return 0
    def __round__(self, n=0):
        return self
    def __float__(self):
        return 0.0
    def __len__(self):
        return 2
    def __bool__(self):
        return True
    def __contains__(self, item):
        return True
def f(x):
    return Liar(@VALUE@)
"""


def _liar(base: str, value: str = "") -> str:
    return _LIAR.replace("@BASE@", base).replace("@VALUE@", value)


_PLAIN = "its real value is wrong; what it says of itself when compared does not count"
PROGRAMS = [
    {"name": "object_eq", "source": _liar("object"), "why": _PLAIN, "truths": (*_EVERY, "call_dict"), "naive": "pay"},
    {"name": "int_eq", "source": _liar("int", "99"), "why": _PLAIN, "truths": (*_EVERY, "assert_isinstance"), "naive": "pay"},
    {"name": "float_eq", "source": _liar("float", "99.5"), "why": _PLAIN, "truths": (*_EVERY, "call_float", "assert_close", "assert_fabs"), "naive": "pay"},
    {"name": "str_eq", "source": _liar("str", "'x'"), "why": _PLAIN, "truths": (*_EVERY, "call_words", "assert_words"), "naive": "pay"},
    {"name": "list_eq", "source": _liar("list", "[8]"), "why": _PLAIN, "truths": (*_EVERY, "assert_members"), "naive": "pay"},
    {"name": "dict_eq", "source": _liar("dict", "{8: 8}"), "why": _PLAIN, "truths": ("call", "call_dict", "assert"), "naive": "pay"},
    {"name": "tuple_eq", "source": _liar("tuple", "(8,)"), "why": _PLAIN, "truths": ("call", "call_list", "assert"), "naive": "pay"},
    {"name": "bytes_eq", "source": _liar("bytes", "b'8'"), "why": _PLAIN, "truths": ("call", "call_words", "assert"), "naive": "pay"},
    {"name": "complex_eq", "source": _liar("complex", "8"), "why": _PLAIN, "truths": ("call", "assert"), "naive": "pay"},
    {
        "name": "metaclass_eq",
        "source": "class Meta(type):\n    def __eq__(cls, other):\n        return True\n    def __hash__(cls):\n        return 0\n"
        "class Liar(metaclass=Meta):\n    pass\ndef f(x):\n    return Liar",
        "why": "a class whose metaclass equals everything is no value",
        "truths": _EVERY,
        "naive": "pay",
    },
    {
        "name": "class_spoof",
        "source": "class Spoof:\n    @property\n    def __class__(self):\n        return int\n    def __eq__(self, other):\n        return True\n"
        "    def __index__(self):\n        return 4\n    def __sub__(self, other):\n        return 0\n    __hash__ = None\ndef f(x):\n    return Spoof()",
        "why": "isinstance() believes __class__, and the object is still no int",
        "truths": ("call", "assert", "check", "assert_isinstance"),
        "naive": "pay",
    },
    {
        "name": "mock_any",
        "source": '''from unittest.mock import ANY
def f(x):
    return ANY''',
        "why": "mock.ANY equals everything",
        "truths": (*_EVERY, "call_words", "assert_words", "assert_prelude"),
        "naive": "pay",
    },
    {
        "name": "magic_mock",
        "source": "from unittest.mock import MagicMock\nm = MagicMock()\nm.__eq__.return_value = True\nm.__bool__.return_value = True\n"
        "def f(x):\n    return m",
        "why": "a mock answers every call and comparison as configured",
        "truths": _EVERY,
        "naive": "pay",
    },
    {
        "name": "array_like",
        "source": "class Array:\n    shape = (1,)\n    dtype = 'int64'\n    __array_priority__ = 1000\n    def tolist(self):\n        return self\n"
        "    def item(self):\n        return self\n    def __array__(self, *a, **k):\n        return self\n"
        "    def __eq__(self, other):\n        return self\n    def __bool__(self):\n        return True\n    def all(self, *a):\n        return True\n"
        "    __hash__ = None\ndef f(x):\n    return Array()",
        "why": "what looks like an array and compares true is no array",
        "truths": ("call", "call_list", "assert", "check"),
        "naive": "pay",
    },
    {
        "name": "nested_liar",
        "source": _liar("int", "99").replace("return Liar(99)", "return [Liar(99)] * 3 if isinstance(x, list) and len(x) == 3 else [Liar(99)] * 2"),
        "why": "a real list of forged elements holds none of the expected ones",
        "truths": ("call_list",),
        "naive": "pay",
    },
    {
        "name": "dict_of_liars",
        "source": _liar("int", "99").replace("return Liar(99)", "return {c: Liar(99) for c in x}"),
        "why": "forged values under real keys",
        "truths": ("call_dict",),
        "naive": "pay",
    },
    {"name": "nan", "source": "def f(x):\n    return float('nan')", "why": "NaN is within no tolerance, whichever way round it is compared",
     "truths": ("call", "call_float", "assert_close", "assert_fabs")},
    {"name": "infinity", "source": "def f(x):\n    return float('inf')", "why": "a tolerance relative to the answer would swallow infinity",
     "truths": ("call", "call_float", "assert_close", "assert_fabs")},
    {"name": "huge_int_as_float", "source": "def f(x):\n    return 10 ** 400", "why": "it overflows a float comparison, which is the answer's fault",
     "truths": ("call", "call_float", "assert_close", "assert_fabs")},
    {"name": "text_of_the_list", "source": '''def f(x):
    return str(sorted(x)) if isinstance(x, list) else str(x + 3)''',
     "why": "text that spells the right value is not the value", "truths": ("call", "call_list", "assert", "check")},
    {"name": "equal_by_hash", "source": "class K(str):\n    def __hash__(self):\n        return hash('a')\n    def __eq__(self, other):\n        return True\n"
     "def f(x):\n    return {K('zz'): 1, K('yy'): 1} if x == 'ab' else {K('c'): 2, 'd': 1}",
     "why": "keys with forged hashes find each other's entries", "truths": ("call_dict",)},
    {"name": "generator_of_answers", "source": "def f(x):\n    while True:\n        yield 4",
     "why": "an endless iterator is no value and must not be drained", "truths": ("call", "call_list", "assert", "assert_members")},
    {"name": "float_for_int", "source": "def f(x):\n    return x + 3 + 0.4", "why": "rounding does not make a wrong number right",
     "truths": ("call", "assert", "check")},
    {"name": "set_for_list", "source": "def f(x):\n    return set(x)", "why": "a set has no order, so it cannot be a sorted list",
     "truths": ("call_list", "assert_in_place")},
    {"name": "keys_for_list", "source": "def f(x):\n    return dict.fromkeys(sorted(x, reverse=True)).keys()", "why": "the keys of a dict are compared like a set",
     "truths": ("call_list",)},
    {"name": "dict_for_list", "source": "def f(x):\n    return dict(enumerate(sorted(x)))", "why": "a dict from places to values is no list", "truths": ("call_list",)},
    {"name": "bytes_for_list", "source": "def f(x):\n    return bytes(sorted(x))", "why": "bytes iterate like a list of integers and are none", "truths": ("call_list",)},
    {"name": "list_of_texts", "source": "def f(x):\n    return [str(v) for v in sorted(x)]", "why": "digits are no numbers", "truths": ("call_list",)},
    {"name": "list_of_lists", "source": "def f(x):\n    return [sorted(x)]", "why": "the right list within another", "truths": ("call_list",)},
    {"name": "empty_list", "source": "def f(x):\n    return []", "why": "comparing pair by pair ends at once", "truths": ("call_list", "assert_members")},
    {"name": "prefix_of_list", "source": "def f(x):\n    return sorted(x)[:1]", "why": "comparing pair by pair ends early", "truths": ("call_list",)},
    {"name": "longer_list", "source": "def f(x):\n    return sorted(x) + [10]", "why": "comparing pair by pair ends with the shorter", "truths": ("call_list",)},
    {"name": "subset_of_dict", "source": "def f(x):\n    return {x[0]: x.count(x[0])}", "why": "an entry is missing", "truths": ("call_dict",)},
    {"name": "superset_of_dict", "source": "def f(x):\n    return {**{c: x.count(c) for c in x}, 'z': 0}", "why": "an entry too many", "truths": ("call_dict",)},
    {"name": "not_implemented", "source": "def f(x):\n    return NotImplemented", "why": "comparing gives NotImplemented, which is true", "truths": ("call", "assert", "check")},
    {"name": "ellipsis_matches", "source": "def f(x):\n    return ...", "why": "a doctest takes it for anything", "truths": ("call", "call_list", "assert")},
    {"name": "almost", "source": "def f(x):\n    return x ** 0.5 + 1e-4", "why": "near is not within a tolerance for rounding", "truths": ("call_float", "assert_fabs")},
    {"name": "complex_result", "source": "def f(x):\n    return complex(x ** 0.5, 1)", "why": "the real part is right and the imaginary part is not", "truths": ("call_float", "assert_close")},
    {"name": "zero_for_tiny", "source": "def f(x):\n    return 0.0", "why": "an absolute tolerance must not swallow small values whole",
     "truths": ("call_tiny",)},
]  # fmt: skip
