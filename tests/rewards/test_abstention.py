import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_rewards.abstention import abstains, final_answer, marked_answer, split_reply

ABSTAINS = [
    # plain
    "I don't know",
    "I don't know.",
    "I do not know the answer to this question.",
    "i dont know",
    "I DON'T KNOW!",
    "IDK",
    "idk, sorry",
    "Dunno.",
    "No idea.",
    "I have no idea who that is.",
    "I haven't the faintest idea.",
    "I'm not sure.",
    "Not sure",
    "I am unsure about that.",
    "I honestly don't know.",
    "I really don't know who won the match, or when it was played.",
    "Sorry, I don't know.",
    "I'm sorry, but I don't know the answer to that.",
    "Unfortunately, I do not know when the bridge was built.",
    "We don't know.",
    "I don't know if it was Paris or London.",
    "I'm not sure whether it is 5 or 6.",
    "I do not know whether it is Paris, London or Rome",
    "I don't know if it is Paris, London, Rome, or Berlin.",
    "I cannot say whether it was 1912, 1913, or 1914.",
    "Well, I don't know; that's too hard for me.",
    "That is too hard for me.",
    "I cannot solve this.",
    "I can't answer that.",
    "I give up.",
    "Pass.",
    "I'd rather not guess.",
    "I would prefer not to answer this.",
    "I must abstain.",
    "I can't recall the name of the director.",
    "I am not familiar with this person.",
    "I lack the knowledge to answer this.",
    "That's beyond what I know.",
    "Your guess is as good as mine.",
    "I haven't a clue.",
    "I don't possess information about this.",
    "I have limited knowledge about this topic and cannot answer.",
    "I would be guessing, so I'd rather say I don't know.",
    "It depends on information that I don't have.",
    "I'd have to look that up.",
    "I don't think I know the answer to this one.",
    # typographic apostrophes
    "I don’t know.",
    "I donʼt know.",
    "I don′t know.",
    "I don`t know.",
    "I can’t determine this.",
    # unknown and undetermined
    "Unknown",
    "unknown.",
    "Answer: Unknown",
    "The answer is unknown.",
    "His birthplace is not known.",
    "It is unclear.",
    "N/A",
    "n/a.",
    "Not available.",
    "Cannot be determined",
    "The value cannot be determined from the information given.",
    "It is impossible to determine the exact date.",
    "There is no way to know.",
    "There is not enough information to answer the question.",
    "Insufficient information.",
    "Not enough data",
    "The passage does not mention who wrote the letter.",
    "The question is unanswerable with the given context.",
    "Nobody knows.",
    # refusals
    "I'm unable to verify that.",
    "As an AI language model, I don't have access to real-time data, so I cannot tell you the current price.",
    "As of my last update in 2023, I do not have information about the 2026 World Cup winner.",
    "I don't have enough information to answer this accurately.",
    "I couldn't find any reliable information about this person.",
    "I don't have any record of a film with that title.",
    "That is beyond my knowledge.",
    "This falls outside my training data.",
    # with an explanation after it
    "I don't know. The question asks about an event after my training data ends.",
    "I do not know the answer. Please check a reliable source, such as the official website.",
    "I don't know, but you could ask a librarian.",
    "I'm not sure about this one. Could you provide more context?",
    "It cannot be determined. The problem does not say how many apples Tom had at the start.",
    "I don't know, since the problem does not give the height.",
    "I don't know because it is not in my data.",
    "I don't know.\nConfidence: 0.1",
    # marked
    "Answer: I don't know",
    "**Answer:** I don't know.",
    'Answer: "I don\'t know"',
    "\\boxed{\\text{I don't know}}",
    "\\boxed{\\text{unknown}}",
    "<answer>I don't know</answer>",
    "The answer is: I don't know",
    "My final answer is that I do not know.",
    "#### I don't know",
    # an answer in the reasoning, an abstention at the end
    "<think>Perhaps it is Paris.</think>I don't know.",
    "Paris comes to mind first, and London second.\nAnswer: I don't know",
    "12 * 7 is about 80. Then there is the rest of it.\n\nThat is too hard for me.\nAnswer: I don't know",
    "The album came out in the nineties. Several people produced it. I don't know who was the first.",
    "Answer: Paris\nWait, I have mixed that up.\nAnswer: I don't know",
    "Let me think. The first one was built in Rome.\n\nIn the end, I do not know the answer.",
    # other languages
    "Ich weiß es nicht.",
    "Das weiß ich leider nicht.",
    "Keine Ahnung.",
    "Antwort: Ich weiß es nicht",
    "Je ne sais pas.",
    "Désolé, je ne connais pas la réponse.",
    "Je n’en sais rien.",
    "No lo sé.",
    "No sé la respuesta.",
    "Lo siento, no tengo información sobre eso.",
    "Non lo so.",
    "Non conosco la risposta.",
    "Não sei.",
    "Não sei a resposta.",
    "Ik weet het niet.",
    "Nie wiem.",
    "Я не знаю.",
    "К сожалению, я не знаю ответа.",
    "我不知道。",
    "抱歉，我不知道这个问题的答案。",
    "无法确定",
    "わかりません。",
    "申し訳ありませんが、分かりません。",
    "모르겠습니다.",
    "죄송하지만 잘 모르겠어요.",
    "لا أعرف.",
    "لا أعلم",
    "मुझे नहीं पता।",
    "मैं नहीं जानता",
    "Bilmiyorum.",
    "Maalesef cevabı bilmiyorum.",
]
ANSWERS = [
    # plain
    "Paris",
    "19",
    "Answer: 19",
    "The capital of France is Paris.",
    # nothing
    "",
    "   \n",
    "Answer:",
    "...",
    "\\boxed{}",
    "<answer></answer>",
    # hedged
    "I don't know, but Paris",
    "I don't know, but I think it is Paris.",
    "I don't know, Paris?",
    "I don't know, maybe Paris.",
    "I don't know. Paris.",
    "I don't know. Maybe 1912?",
    "I don't know. The capital of France is Paris.",
    "I don't know if this is right: Paris",
    "I don't know for sure, but it was probably Einstein.",
    "I don't know exactly, around 1912",
    "I don't know (maybe Paris)",
    "I don't know it's Paris",
    "I don't know - Paris",
    "I don't know — my best guess would be Paris.",
    "I don't know, however the most likely candidate is Marie Curie.",
    "I'm not sure, maybe 1912",
    "I'm not sure, but the answer might be 42.",
    "I'm not 100% sure, but I believe it's Canberra",
    "Not sure, Canberra?",
    "not sure maybe 1912",
    "idk paris",
    "No idea, 5?",
    "I think it is Paris but I'm not certain.",
    "It is probably Paris, but I don't know.",
    "It's Paris, I'm not sure though.",
    "Paris, I think, but I don't know for sure.",
    "Paris. I'm not sure.",
    "Although I cannot be certain, it was Napoleon.",
    "While I'm not entirely sure, I would say 1815.",
    "I cannot determine the exact value, but it is approximately 3.14.",
    "I can't say for certain; my guess is Lisbon.",
    "As an AI I cannot be sure, but the winner was Brazil.",
    "Hard to say, but I'd go with blue.",
    "Unknown, but probably 12",
    "There is not enough information to be certain, but the answer is most likely 7.",
    "I don’t know, but 1912.",
    "I don't know the shortcut, so I count. There are 12 apples.",
    "I don't know offhand. Let me compute: 3 * 4 = 12. So there are 12 apples.",
    "Paris or London, I don't know",
    "I don't have real-time access, but as of 2023 it was Biden.",
    "I don't know → Paris",
    "I don't know / Paris",
    "I don't know anything about it except that it was 1912.",
    "I don't know. If I had to guess, Paris.",
    "Shakespeare? Not sure.",
    "I don't know\nParis",
    "I don't know.\n\nParis",
    "Paris\n\nI'm not sure.",
    # quoted
    "It was sung by Not Sure",
    "He said 'I don't know'.",
    'The song is called "I Don\'t Know" by Paul McCartney.',
    "She answered “I don’t know” and left.",
    "The phrase means 'I do not know'",
    'The French phrase "je ne sais pas" means "I don\'t know".',
    "The title of the song is I Don't Know",
    "Liam Neeson starred in Unknown",
    "the Tomb of the Unknown Soldier",
    "«Ich weiß es nicht» war seine Antwort.",
    "Socrates said that he knew that he did not know.",
    # negated or somebody else
    "I do know: Paris",
    "It's not that I don't know: it is Paris.",
    "I know that it is Paris",
    "It is not unknown: the author was Homer.",
    "The author is not unknown; it was Homer.",
    "He does not know the answer.",
    "John doesn't know, Mary does.",
    "If I don't know, I ask Anna.",
    "No",
    "None",
    "Nothing",
    "I know it. It's Paris.",
    "You don't know Jack",
    "I can't think of anything other than Paris.",
    "I can't rule out Paris",
    "Cannot be negative, so 5",
    "It's unknown to many, but Paris.",
    "No solution",
    "no real solutions",
    "The limit does not exist",
    "undefined",
    # in the reasoning only
    "<think>I don't know. Maybe count.</think>12",
    "<think>I really don't know this.</think>\n\nThe answer is 12.",
    "I don't know this by heart.\nAnswer: 12",
    "I'm not sure how to start. 6 + 6 = 12.\n#### 12",
    "Answer: I don't know\nWait, I can count them.\nAnswer: 12",
    "I cannot solve this directly.\n\n\\boxed{12}",
    "I don't know the formula, so let me derive it. It follows that x = 5.",
    "<answer>Paris</answer> although I don't know for sure",
    # other languages
    "Ich weiß es nicht, aber vielleicht Paris.",
    "Ich glaube, es ist Paris, aber ich bin mir nicht sicher.",
    "Je ne sais pas, mais je dirais Paris.",
    "No lo sé, pero creo que es París.",
    "Non lo so, forse Roma.",
    "Não sei, talvez Lisboa.",
    "Ik weet het niet, maar misschien Amsterdam.",
    "Nie wiem, może Kraków.",
    "Я не знаю, но, возможно, Москва.",
    "我不知道，但可能是巴黎。",
    "わかりませんが、たぶん東京です。",
    "모르겠지만 아마 서울입니다.",
    "لا أعرف، ربما القاهرة",
    "मुझे नहीं पता, शायद दिल्ली",
    "Bilmiyorum ama belki Ankara.",
]


@pytest.mark.parametrize("reply", ABSTAINS)
def test_an_abstention_is_seen(reply: str) -> None:
    assert abstains(reply)
    assert abstains(final_answer(reply))


@pytest.mark.parametrize("reply", ANSWERS)
def test_an_answer_is_no_abstention(reply: str) -> None:
    assert not abstains(reply)
    assert not abstains(final_answer(reply))


def test_the_suite_is_as_large_as_promised() -> None:
    assert len(set(ABSTAINS)) >= 90
    assert len(set(ANSWERS)) >= 60


@pytest.mark.parametrize(
    ("reply", "marked", "answer"),
    [
        ("Answer: Paris", "Paris", "Paris"),
        ("**Answer:** Paris", "Paris", "Paris"),
        ("**Final Answer**: Paris\n", "Paris", "Paris"),
        ("Answer:\n\nParis", "Paris", "Paris"),
        ("A: Paris", "Paris", "Paris"),
        ("I count.\n#### 12", "12", "12"),
        ("So the answer is Paris.", "Paris.", "Paris."),
        ("The answer to the question is **Paris**.", "Paris.", "Paris."),
        ("\\boxed{\\text{East}}", "East", "East"),
        ("\\boxed{\\frac{1}{2}}, so our answer is right", "\\frac{1}{2}", "\\frac{1}{2}"),
        ("<answer> Paris </answer>", "Paris", "Paris"),
        ("<answer>Paris", "Paris", "Paris"),
        ("<answer>Answer: Paris</answer>", "Paris", "Paris"),
        ("<answer>Rome</answer><answer>Paris</answer>", "Paris", "Paris"),
        ("<think>Answer: Rome</think>Paris", None, "Paris"),
        ("<think>Answer: Rome", None, ""),
        ("I think. </think> Answer: Paris", "Paris", "Paris"),
        ("Answer: Rome\nAnswer: Paris", "Paris", "Paris"),
        ("I don't know what the answer is.", None, "I don't know what the answer is."),
        ("Paris", None, "Paris"),
        ("Paris\nConfidence: 0.8", None, "Paris"),
        ("Answer: Paris\nConfidence: 80 %", "Paris", "Paris"),
        ("Antwort: Paris", "Paris", "Paris"),
        ("答案：巴黎", "巴黎", "巴黎"),
        ("Answer: Paris<|im_end|>", "Paris", "Paris"),
        ("", None, ""),
        ("Answer:", "", ""),
    ],
)
def test_the_answer_of_a_reply(reply: str, marked: str | None, answer: str) -> None:
    assert marked_answer(reply) == marked
    assert final_answer(reply) == answer
    assert split_reply(reply)[1] == answer


def test_a_long_reply_without_a_mark_answers_in_its_last_paragraph() -> None:
    reasoning = "There were many cities to think of. " * 60
    assert final_answer(f"{reasoning}\n\nIt is Paris.") == "It is Paris."
    assert split_reply(f"{reasoning}\n\nIt is Paris.") == (reasoning.strip(), "It is Paris.")
    assert split_reply("<think>Hm.</think>\nParis") == ("Hm.", "Paris")


# fmt: off
PIECES = [
    "I don't know", "but", "Paris", ". ", ", ", "\n", "Answer: ", "\\boxed{", "}", "<think>", "</think>", "not", '"',
    "’", "<answer>", "</answer>", "maybe", "unknown", "我不知道", "(", ")", "12", "\x00", "\ud800", "Confidence: 0.5",
]
# fmt: on


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join) | st.text(max_size=200))
def test_a_marked_answer_decides_whatever_stands_before_it(text: str) -> None:
    assert abstains(text) is abstains(text)
    assert not abstains(f"{text}\nAnswer: Paris")
    assert abstains(f"{text}\nAnswer: I don't know") or final_answer(f"{text}\nAnswer: Paris") != "Paris"


@pytest.mark.parametrize(
    "piece", [*PIECES, "I don't know, but ", "I don't know. ", "the answer is ", " ", "i am ", "not "]
)
def test_long_junk_is_decided_fast(piece: str) -> None:
    junk = piece * (100_000 // len(piece))
    started = time.process_time()
    abstains(junk)
    final_answer(junk)
    assert time.process_time() - started < 1.0
