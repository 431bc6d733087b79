import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.testing import JUNK, check_reward, rollout, task
from rlvr.types import Grade, Ungraded
from rlvr_rewards.truth import Truth, facts_of, question_of, stated_confidence


def grade(reply: str, truth: object, *, question: str = "What is it?", **options: object) -> Grade | Ungraded:
    posed = task(question, truth)
    return Truth(**options).grade(posed, rollout(reply, of=posed))  # type: ignore[arg-type]


def verdict(reply: str, truth: object, *, question: str = "What is it?", **options: object) -> str:
    """Give the verdict's name, or UNGRADED."""
    judged = grade(reply, truth, question=question, **options)
    return str(judged.verdict) if isinstance(judged, Grade) else "UNGRADED"


CAPITAL = "What is the capital of France?"
RIGHT = [
    (CAPITAL, "Paris", "Paris"),
    (CAPITAL, "paris.", "Paris"),
    (CAPITAL, "PARIS!", "Paris"),
    (CAPITAL, "Answer: Paris", "Paris"),
    (CAPITAL, "**Paris**", "Paris"),
    (CAPITAL, '"Paris"', "Paris"),
    (CAPITAL, "The capital of France is Paris.", "Paris"),
    (CAPITAL, "the capital of france is paris", "Paris"),
    (CAPITAL, "Paris, France", "Paris"),
    (CAPITAL, "Paris (in the north of the country)", "Paris"),
    (CAPITAL, "Paris is the capital of France.", "Paris"),
    (CAPITAL, "It's Paris.", "Paris"),
    (CAPITAL, "It is not Lyon but Paris.", "Paris"),
    (CAPITAL, "I don't know, but Paris", "Paris"),
    (CAPITAL, "I think it is Paris.", "Paris"),
    (CAPITAL, "Paris. It lies on the Seine.", "Paris"),
    (CAPITAL, "Let me think of France.\n\nSo it is Paris.", "Paris"),
    ("What is the capital of Brazil?", "Brasilia", "Brasília"),
    ("What is the capital of Iceland?", "Reykjavík", "Reykjavik"),
    ("Which city hosts it?", "Munich", ["München", "Munich"]),
    ("Which river is it?", "the Kanawha", "Kanawha River"),
    ("Which battle was it?", "Antietam", "the Battle of Antietam"),
    ("How do you call it?", "e-mail", "email"),
    ("Which company?", "AT&T", "AT and T"),
    ("Which of them?", "rock and roll", "Rock & Roll"),
    ("What does ATP become?", "ADP", "adenosine diphosphate (ADP)"),
    ("What does ATP become?", "Adenosine diphosphate", "adenosine diphosphate (ADP)"),
    ("Which country?", "USA", "United States"),
    ("Which country?", "the U.S.", "the United States"),
    ("Which war?", "World War 2", "World War II"),
    # numbers
    ("How many are there?", "nineteen", "19"),
    ("How many are there?", "19", "nineteen"),
    ("How many are there?", "There are 19 of them.", "19"),
    ("How many are there?", "1,200", "1200"),
    ("How many are there?", "twelve hundred", "1,200"),
    ("How many are there?", "two hundred and five", "205"),
    ("How many people live there?", "5 million", "5,000,000"),
    ("How many people live there?", "about 5 million people", "5 million"),
    ("How long is it?", "5 km", "5,000 meters"),
    ("How long is it?", "5 kilometres", "5 km"),
    ("How long is it?", "5", "5 km"),
    ("What share is it?", "50 percent", "50%"),
    ("How much blood is in a body?", "5 liters", "approximately 5 liters"),
    ("How much?", "$1.5 million", "1500000"),
    ("How many eggs?", "a dozen", "12"),
    ("How cold is it?", "-40", "−40"),
    ("What place did she take?", "third", "3rd"),
    ("What place did she take?", "She took 3rd place.", "third"),
    ("How many books are in the series of 7 seasons?", "The series of 7 seasons has 12 books.", "12"),
    # dates
    ("When was it?", "in 1912", "1912"),
    ("When was it?", "It was in 1912.", "1912"),
    ("When was it?", "nineteen twelve", "1912"),
    ("When was it?", "18 March 1996", "March 18, 1996"),
    ("When was it?", "March 18th, 1996", "18 March 1996"),
    ("When was it?", "the 18th of March 1996", "1996-03-18"),
    ("When was it?", "03/18/1996", "March 18, 1996"),
    ("When was it?", "18.03.1996", "March 18, 1996"),
    ("When was it?", "Mar 18, 1996", "March 18, 1996"),
    ("What year was it?", "March 18, 1996", "1996"),
    ("When was it?", "1996", "March 18, 1996"),
    ("When was it?", "44 BC", "44 B.C."),
    ("When is Independence Day?", "July 4", "the 4th of July"),
    ("When did Ronaldo join Manchester United?", "Cristiano Ronaldo joined Manchester United in 2003.", "2003"),
    ("When did it start and end?", "1881 to 1885", "between 1881 and 1885"),
    # names
    ("Who was it?", "John Adams", "John Quincy Adams"),
    ("Who was it?", "John Q. Adams", "John Quincy Adams"),
    ("Who was it?", "J. Q. Adams", "John Quincy Adams"),
    ("Who was it?", "Adams", "John Quincy Adams"),
    ("Who was it?", "President John Quincy Adams", "John Quincy Adams"),
    ("Who wrote it?", "J.K. Rowling", "Joanne Kathleen Rowling"),
    ("Who wrote it?", "J. R. R. Tolkien wrote it.", "J.R.R. Tolkien"),
    ("Who is the singer?", "Dave Gahan", "David Gahan"),
    ("Who made the first electric guitar record?", "The record was made by George Barnes in 1938.", "George W. Barnes"),
    ("Who is she?", "Dr. Marie Curie", "Marie Curie"),
    ("Who does April marry?", "April Ludgate eventually marries Andy Dwyer.", "Andy Dwyer"),
    ("Where is the 2018 World Cup held?", "The 2018 FIFA World Cup is held in Russia.", "Russia"),
    # choices, yes and no, abstaining as the right answer
    ("Who is older, Ann or Bob?", "Ann", "Ann"),
    ("Who is older, Ann or Bob?", "Ann is older than Bob.", "Ann"),
    ("Is it?", "Yes, it is.", "yes"),
    ("Is it?", "No.", "No"),
    ("Who wrote it?", "Unknown", "unknown"),
    ("Which song is it?", "I Don't Know", "I Don't Know"),
    ("What are the colours?", "blue, white and red", "red, white and blue"),
    ("Name the boroughs.", "Queens and Brooklyn", ["Queens and Brooklyn"]),
    # signs, units and eras
    ("Which blood type?", "O-", "O-"),
    ("Which blood type?", "It is AB+.", "AB+"),
    ("Which language?", "C++", "C++"),
    ("Which language?", "It is C#.", "C#"),
    ("Which level?", "p < 0.05", "p<0.05"),
    ("Which bound?", "<= 5", "≤5"),
    ("How much is it?", "$5", "5 dollars"),
    ("How much is it?", "500 cents", "5 dollars"),
    ("How much is it?", "€5", "5 euros"),
    ("How much is it?", "£5 million", "5 million pounds"),
    ("How warm is it?", "50 degrees Celsius", "50 °C"),
    ("How much is it?", "The volume of it is 5 liters.", "approximately 5 liters"),
    ("How much is it?", "It is $ 5 million.", "5 million dollars"),
    ("How warm is it?", "50°C", "50 degrees"),
    ("How long did it take?", "1,000 milliseconds", "1 second"),
    ("What percentage is it?", "27%", "27"),
    ("What share of them is it?", "27", "27%"),
    ("How many seasons are there?", "12 full seasons", "12 seasons"),
    ("How many are there?", "There are 19 of them in the north.", "19 people"),
    ("When was it?", "AD 1912", "1912"),
    ("When was it?", "1912 CE", "1912"),
    ("When was it?", "1500 B.C.", "1500 BC"),
    ("Who was it?", "Martin Luther King", "Martin Luther King Jr."),
    ("Who was it?", "Martin Luther King, Jr.", "Martin Luther King Jr."),
    ("Who was it?", "George Bush", "George H. W. Bush"),
    ("Who was it?", "madonna", "Madonna"),
    ("Which is heavier, gold or silver?", "gold weighs more than silver", "Gold weighs more than silver"),
    ("Who said it?", 'It is unknown who said, "Never again"', 'It is unknown who said, "Never again"'),
    ("Where is it?", "Diyarbakır", "Diyarbakir"),
]
WRONG = [
    (CAPITAL, "", "Paris"),
    (CAPITAL, "Answer:", "Paris"),
    (CAPITAL, "London", "Paris"),
    (CAPITAL, "not Paris", "Paris"),
    (CAPITAL, "It is not Paris.", "Paris"),
    (CAPITAL, "It isn't Paris.", "Paris"),
    (CAPITAL, "Paris is not the capital of France.", "Paris"),
    (CAPITAL, "anything but Paris", "Paris"),
    (CAPITAL, "not Paris but Lyon", "Paris"),
    # shotguns
    (CAPITAL, "Paris, London or Rome", "Paris"),
    (CAPITAL, "Paris or London", "Paris"),
    (CAPITAL, "Paris/London", "Paris"),
    (CAPITAL, "London, Paris", "Paris"),
    (CAPITAL, "Paris, London and Rome", "Paris"),
    (CAPITAL, "Paris and London", "Paris"),
    (CAPITAL, "London and Paris", "Paris"),
    (CAPITAL, "London Paris Rome", "Paris"),
    (CAPITAL, "Paris London Rome", "Paris"),
    (CAPITAL, "london paris rome", "Paris"),
    (CAPITAL, "London. Paris. Rome.", "Paris"),
    (CAPITAL, "It is London. It is Paris.", "Paris"),
    (CAPITAL, "London (Paris)", "Paris"),
    (CAPITAL, "London - Paris", "Paris"),
    (CAPITAL, "What is the capital of France? London Paris", "Paris"),
    ("What type of speed is it?", "average instantaneous speed", "instantaneous"),
    ("Which organelle makes ATP and stores it?", "nucleus and mitochondrion", "mitochondrion"),
    ("Who sang it?", "Cher Madonna", "Madonna"),
    ("Who can't get what he wants?", "It is not Mick Jagger.", "Mick Jagger"),
    ("How long is it?", "83 (1988)", "1988"),
    ("When was it?", "the 1830s, 1918", "1918"),
    ("When was it?", "Hirschman, 1939", "1939"),
    ("When was it?", "1984. 13 March 624", "13 March 624"),
    ("When was it?", "It is 1984. It is May 2016.", "May 2016"),
    (CAPITAL, "London\nParis\nRome", "Paris"),
    (CAPITAL, "The capital of France is London, Paris, Rome, Berlin.", "Paris"),
    (CAPITAL, "The capital of France is London; Paris", "Paris"),
    (CAPITAL, "The capital of France could be Paris or London.", "Paris"),
    (CAPITAL, "It is either Paris or London.", "Paris"),
    (CAPITAL, "I don't know, London, or Paris", "Paris"),
    (CAPITAL, "Answer: Paris\nAnswer: London", "Paris"),
    (CAPITAL, "Paris is what I first thought.\nAnswer: London", "Paris"),
    (CAPITAL, "Paris Hilton", "Paris"),
    (CAPITAL, "all cities, Paris among them", "Paris"),
    # numbers and dates
    ("How many are there?", "18", "19"),
    ("How many are there?", "18 or 19", "19"),
    ("How many are there?", "18, 19, 20", "19"),
    ("How many are there?", "between 19 and 20", "19"),
    ("How many are there?", "19-20", "19"),
    ("How many are there?", "not 19", "19"),
    ("How many are there?", "190", "19"),
    ("How many are there?", "1.9", "19"),
    ("How many are there?", "-19", "19"),
    ("How many are there?", "19 million", "19"),
    ("How long is it?", "5 miles", "5 km"),
    ("How long is it?", "5 kg", "5 km"),
    ("When was it?", "1913", "1912"),
    ("When was it?", "1912 or 1913", "1912"),
    ("When was it?", "1911, 1912, 1913", "1912"),
    ("When was it?", "1910-1915", "1912"),
    ("When was it?", "March 19, 1996", "March 18, 1996"),
    ("When was it?", "April 18, 1996", "March 18, 1996"),
    ("When was it?", "March 18, 1997", "March 18, 1996"),
    ("When was it?", "in the 1990s", "1990"),
    ("When was it?", "44 AD", "44 BC"),
    ("When was it?", "between 1881 and 1886", "between 1881 and 1885"),
    # names
    ("Who was it?", "Samuel Adams", "John Quincy Adams"),
    ("Who was it?", "John Fitzgerald Adams", "John Quincy Adams"),
    ("Who was it?", "John", "John Quincy Adams"),
    ("Who was it?", "John Adams or Samuel Adams", "John Adams"),
    ("Who was it?", "Samuel Adams, John Adams", "John Adams"),
    ("Who was it?", "John Adams and Samuel Adams", "John Adams"),
    ("Who presides?", "Chief judge", "District judge"),
    ("Who is older, Ann or Bob?", "Bob is older than Ann.", "Ann"),
    ("Who is older, Ann or Bob?", "Ann or Bob", "Ann"),
    ("Is it?", "Yes, it is not.", "no"),
    ("Is it?", "Yes and no", "no"),
    ("Which state?", "West Virginia", "Virginia"),
    ("What do they earn?", "income tax evasion", "income tax"),
    # the question's own words, dropped, added or exchanged
    ("Which is heavier, gold or silver?", "Silver weighs more than gold", "Gold weighs more than silver"),
    ("Who won the game, the Bears or the Lions?", "The Lions won 20-17", "The Bears won 20-17"),
    ("Who won the game, the Bears or the Lions?", "won 20-17", "The Bears won 20-17"),
    ("Did Anna or Ben win, and by how much?", "Ben won by 3 points", "Anna won by 3 points"),
    ("Would a hare win a race?", "a hare would lose in real life", "A hare would win a race in real life"),
    (
        "Who would win a race in real life, a hare or a tortoise?",
        "would win a race in real life easily",
        "A hare would easily win a race in real life",
    ),
    (
        "Between a hare and a tortoise, who would win a race?",
        "would win a race in real life",
        "A hare would win a race in real life",
    ),
    ("What happened to Ann and Bob?", "Bob beat Ann and won", "Ann beat Bob and won"),
    ("What happened to Ann and Bob?", "Ann has beaten Bob", "Ann was beaten by Bob"),
    ("Which way is it?", "to Rome from Paris", "from Rome to Paris"),
    ("What was the score?", "201-7", "20-17"),
    # signs that carry meaning
    ("Which blood type?", "O+", "O-"),
    ("Which blood type?", "O", "O-"),
    ("Which blood type?", "A-", "A+"),
    ("Which blood type?", "It is A-.", "A+"),
    ("Which language?", "C", "C++"),
    ("Which language?", "C++", "C"),
    ("Which language?", "C", "C#"),
    ("Which language?", "C#", "C++"),
    ("Which key?", "C♭", "C♯"),
    ("Which level?", "p > 0.05", "p < 0.05"),
    ("Which bound?", "≥5", "≤5"),
    ("Which bound?", "It is ≥5.", "5"),
    ("Which bound?", "5", "≤5"),
    # units
    ("How much is it?", "5 cents", "5 dollars"),
    ("How much is it?", "5 million rupees", "5 million dollars"),
    ("How much is it?", "It is 5 million rupees.", "5 million dollars"),
    ("How much is it?", "€5", "$5"),
    ("How much is it?", "5 euros", "$5"),
    ("How long is it?", "10 milliseconds", "10 years"),
    ("How long is it?", "5 nanometers", "5 km"),
    ("How long is it?", "5 parsecs", "5 km"),
    ("How many are there?", "30 percent", "30 people"),
    ("How many are there?", "27%", "27"),
    ("How warm is it?", "50 °F", "50 °C"),
    ("How warm is it?", "50 degrees Fahrenheit", "50 degrees Celsius"),
    # eras
    ("When was it?", "1912 BC", "1912"),
    ("When was it?", "1912 b.c.", "1912"),
    ("When was it?", "March 18, 1912 BC", "March 18, 1912"),
    ("When was it?", "1500", "1500 BC"),
    # yes and no
    ("Is it?", "yes or no", "yes"),
    ("Is it?", "Yes and no", "yes"),
    ("Is it?", "Yes, no", "yes"),
    ("Is it?", "No. Yes.", "no"),
    ("Is it?", "True, false", "true"),
    # persons who share a name
    ("Who was it?", "Martin Luther King Sr.", "Martin Luther King Jr."),
    ("Who was it?", "Martin Luther King senior", "Martin Luther King Jr."),
    ("Who was it?", "George W. Bush", "George H. W. Bush"),
    ("Who was it?", "George Walker Bush", "George Herbert Walker Bush"),
    ("Who was found what?", "guilty", "not guilty"),
    ("Who was found what?", "guilty", "Not Guilty"),
    ("Who was it?", "the plumber", "local plumber"),
]


@pytest.mark.parametrize(("question", "reply", "truth"), RIGHT)
def test_right_answers(question: str, reply: str, truth: object) -> None:
    assert verdict(reply, truth, question=question) == "CORRECT"


@pytest.mark.parametrize(("question", "reply", "truth"), WRONG)
def test_wrong_answers(question: str, reply: str, truth: object) -> None:
    assert verdict(reply, truth, question=question) == "WRONG"


@pytest.mark.parametrize(
    "reply", ["I don't know.", "Answer: unknown", "<think>Paris?</think>I'm not sure.", "我不知道。"]
)
@pytest.mark.parametrize("truth", ["Paris", ["Paris", "Rome"], {"answers": [], "out_of_knowledge": True}])
def test_abstaining_is_neither_right_nor_wrong(reply: str, truth: object) -> None:
    judged = grade(reply, truth)
    assert isinstance(judged, Grade)
    assert (str(judged.verdict), judged.score) == ("ABSTAINED", 0.0)


def test_what_lies_beyond_knowledge_has_no_right_answer() -> None:
    assert verdict("Paris", {"answers": [], "out_of_knowledge": True}) == "WRONG"
    assert verdict("Paris", {"answers": ["Paris"], "out_of_knowledge": True}) == "CORRECT"


def test_a_hedge_pays_no_better_than_a_plain_answer() -> None:
    for hedge in ("I don't know, but {}", "{}, but I'm not sure", "{}. I don't know.", "Maybe {}? I don't know."):
        right, wrong = (verdict(hedge.format(city), "Paris", question=CAPITAL) for city in ("Paris", "Rome"))
        assert (right, wrong) in [("CORRECT", "WRONG"), ("ABSTAINED", "ABSTAINED"), ("WRONG", "WRONG")]


@pytest.mark.parametrize("truth", [None, "", "  ", "?", [], {}, {"answers": []}, {"answer": "5"}, True, [None]])
def test_a_truth_without_an_answer_is_our_failure(truth: object) -> None:
    judged = grade("Paris", truth)
    assert isinstance(judged, Ungraded)
    assert judged.boundary == "reward:truth"
    with pytest.raises(ValueError, match="holds no answer"):
        Truth().gold(task("q", truth))


def test_options() -> None:
    assert verdict("It is Paris.", "Paris", question=CAPITAL, exact=True) == "CORRECT"
    assert verdict("Paris, which lies on the Seine", "Paris", question=CAPITAL, exact=True) == "WRONG"
    assert verdict("3.1", "3.14", tolerance=0.02) == "CORRECT"
    assert verdict("3.1", "3.14") == "WRONG"
    assert verdict("1996", "March 18, 1996", coarse_dates=False) == "WRONG"
    assert verdict("Paris", "Paris", marked_only=True) == "WRONG"
    assert verdict("Answer: Paris", "Paris", marked_only=True) == "CORRECT"
    assert verdict("Could it be Paris? It is Paris", "Paris", question=CAPITAL, thinking=True) == "WRONG"
    assert verdict("Could it be Rome?</think>It is Paris", "Paris", question=CAPITAL, thinking=True) == "CORRECT"
    assert verdict("It is too hard. I don't know", "Paris", question=CAPITAL, thinking=True) == "WRONG"
    with pytest.raises(ValueError, match="tolerance"):
        Truth(tolerance=2.0)


@pytest.mark.parametrize(
    ("lines", "confidence"),
    [
        ("Confidence: 0.8", 0.8),
        ("confidence: 80 %", 0.8),
        ("**Confidence:** 80%", 0.8),
        ("Confidence 80/100", 0.8),
        ("Confidence: 8/10", 0.8),
        ("Confidence = 1", 1.0),
        ("Confidence: 1%", 0.01),
        ("Confidence: 0.2\nConfidence: 0.9", 0.9),
        ("Confidence: .5.", 0.5),
        ("Confidence: 80", None),
        ("Confidence: 1.2", None),
        ("Confidence: 120%", None),
        ("Confidence: -0.5", None),
        ("Confidence: high", None),
        ("Confidence: 0.9 or 0.1", None),
        ("Confidence: 0.9\nConfidence: high", None),
        ("My confidence is 0.8 or so", None),
        ("<think>Confidence: 0.9</think>", None),
        ("", None),
    ],
)
def test_stated_confidence(lines: str, confidence: float | None) -> None:
    assert stated_confidence(f"Answer: Paris\n{lines}") == confidence
    judged = grade(f"{lines}\nAnswer: Paris" if "think" in lines else f"Answer: Paris\n{lines}", "Paris")
    assert isinstance(judged, Grade)
    assert judged.parts == {"format": 1.0} | ({} if confidence is None else {"confidence": confidence})


def test_format_is_reported_apart() -> None:
    unmarked, marked = grade("Paris", "Paris"), grade("Answer: Paris", "Paris")
    assert isinstance(unmarked, Grade) and isinstance(marked, Grade)
    assert unmarked.parts["format"] == 0.0 and marked.parts["format"] == 1.0


@pytest.mark.parametrize(
    "truth", ["Paris", ["1912", "in 1912"], {"answers": ["5 km"]}, 7, "unknown", "I Don't Know", "March 18, 1996"]
)
def test_the_reward_keeps_the_contract(truth: object) -> None:
    assert check_reward(Truth(), [task("q", truth)]) == []
    assert isinstance(pickle.loads(pickle.dumps(Truth())), Truth)


def test_the_question_is_the_last_one_asked() -> None:
    assert question_of(task("Question: a\nAnswer: b\n\nQuestion: Who is it?\n")) == "Who is it?"
    assert question_of(task(" Who is it? ")) == "Who is it?"


def test_facts() -> None:
    assert facts_of({"answers": ["a", 5, None, ""], "out_of_knowledge": True}) == (("a", "5"), True)
    assert facts_of({"answers": ["a"], "out_of_knowledge": "yes"}) == (("a",), False)


PIECES = [
    *(
        "Paris",
        "London",
        "not",
        "or",
        "and",
        ",",
        "1912",
        "5 km",
        "March 18,",
        ". ",
        "\n",
        "(",
        ")",
        "/",
        "J.",
        "the",
        "is",
    ),
    *("France", "in", "IV", "twenty", "\x00", "\ud800", "٣", "½", "²", "ﬁ", "hundred", "1/0", "99/99/9999", "9" * 400),
    *("fıfth", "fİve", "ſix", "mıllion", "5 Km", "18 Aprıl", "5 mıles", "$", "€5", "%", "<", "≥", "C++", "°C", "Jr."),
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join) | st.text(max_size=60),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(" ".join),
)
def test_any_reply_and_any_gold_are_judged(reply: str, gold: str) -> None:
    judged = grade(reply, gold, question=CAPITAL)
    assert isinstance(judged, Grade | Ungraded)
    if facts_of(gold) is not None:
        assert verdict(f"Answer: {' '.join(gold.split())}", gold, question=CAPITAL) != "UNGRADED"


@pytest.mark.parametrize(
    "piece", ["Paris ", "not ", ", ", "\n", "/", "9", "Paris and ", "1-", "hundred ", "A. ", "½", "\ud800"]
)
def test_long_junk_is_judged_fast(piece: str) -> None:
    junk = piece * (100_000 // len(piece))
    started = time.process_time()
    for truth in ("Paris", "1912", "March 18, 1996"):
        assert verdict(junk, truth, question=CAPITAL) in ("WRONG", "CORRECT", "ABSTAINED")
    assert time.process_time() - started < 1.5


@pytest.mark.parametrize("reply", ["the fıfth one", "mıllion five sıx", "FİVE ſix", "18 Aprıl 1996", "5 Kilometers"])
def test_letters_that_only_fold_to_latin_ones_are_judged(reply: str) -> None:
    for truth in ("Paris", "5", "18 April 1996", reply):
        assert verdict(reply, truth) in ("CORRECT", "WRONG")
    assert verdict(reply, reply) == "CORRECT"


@pytest.mark.parametrize("item", ["a{}", "5 km", "{}", "Ann B{}", "May {}"])
def test_a_list_against_many_golds_is_judged_fast(item: str) -> None:
    golds = [*(f"{i} km" for i in range(100)), *(f"Ann B{i}" for i in range(100)), "a1"]
    for joint in (",", " and ", " or "):
        reply = joint.join(item.format(i) for i in range(320))[:390] + " and a1"
        started = time.process_time()
        assert verdict(reply, golds, question="Who were they?") in ("CORRECT", "WRONG")
        assert time.process_time() - started < 1.0


@pytest.mark.parametrize("reply", JUNK)
def test_junk_is_wrong(reply: str) -> None:
    assert verdict(reply, "Paris") == "WRONG"


@pytest.mark.parametrize("said", ["It is less than 5", "It is more than 5", "At least 5.", "over 5"])
def test_a_bound_is_no_amount(said: str) -> None:
    assert verdict(said, "5") == "WRONG"
    assert verdict(said, said) == "CORRECT"
