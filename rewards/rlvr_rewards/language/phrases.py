"""Hold the phrases by which replies abstain, doubt, propose and excuse themselves.

All are matched against text in one spelling: case-folded, Latin letters without accents, English contractions written
out ("do not", "cannot"). A bounded repetition never stands beside an open one, so matching is linear.
"""

from __future__ import annotations

import re

__all__ = [
    "CONTRAST",
    "CUES",
    "FILLER",
    "FOREIGN",
    "GOES_ON",
    "LEADS_IN",
    "NOT_MEANT",
    "PROPOSES",
    "STRONG",
    "SUGGESTS",
    "WEAK",
]

_ADV = (
    r"(?:(?:really|honestly|just|simply|actually|currently|genuinely|unfortunately|sadly|still|also|truly|yet|"
    r"frankly|"
    r"personally|therefore|thus|accurately|reliably|confidently|definitively|fully|even|quite|so|very|entirely|"
    r"completely|totally|absolutely|too|exactly|that|all|100 ?%|publicly|directly) ){0,3}"
)
_I = rf"(?:i|we) {_ADV}"
_THINGS = (
    r"(?:[\w-]{1,20} ){0,6}(?:idea|clue|information|knowledge|data|access|details?|context|records?|answer|"
    r"recollection|memory|means|ability|capability|familiarity|resources|expertise|way)\b"
)
_FIND = (
    r"(?:know|solve|answer|determine|tell|say|give|provide|verify|confirm|find|recall|remember|identify|compute|"
    r"calculate|figure|work|help|access|locate|offer|respond|ascertain|establish|predict|conclude|decide|"
    r"think of(?! any)|"
    r"place|name|come up|do)\b"
)
_FOUND = (
    r"(?:determined|known|answered|ascertained|established|found|solved|computed|calculated|verified|identified|"
    r"inferred|deduced|concluded|decided|specified|confirmed|derived)\b"
)
_OPEN = (
    r"(?:unknown|unknowable|unclear|undetermined|indeterminate|indeterminable|undeterminable|unanswerable|"
    r"undisclosed|"
    r"unspecified|unavailable|uncertain|not {adv}(?:known|clear|available|disclosed|specified|mentioned|stated|"
    r"provided|recorded|documented|found))"
).replace("{adv}", _ADV)

_ENGLISH = (
    rf"\b{_I}do not {_ADV}(?:know|recall|remember|recognize|recognise|(?:have|possess|"
    rf"hold) {_THINGS})(?! (?:better|more)\b)",
    r"\bi do not have (?:personal|opinions|feelings|beliefs|preferences)\b|\bi (?:forgot|have forgotten)\b|"
    r"\bi wish i knew\b",
    r"\bguess is as good as mine\b|\b(?:a )?mystery to me\b|\bnot something (?:that )?i know\b|"
    r"\bi am clueless\b|\blook (?:it|that|this) up\b",
    r"\bmy (?:[\w-]{1,20} ){0,2}(?:knowledge|training|data|information) (?:do|does) not (?:extend|cover|reach|"
    r"go|include)\b",
    rf"\b{_I}(?:do not|cannot) (?:think|believe) (?:i|we) (?:know|can)\b",
    rf"\b{_I}(?:have|had) (?:no|zero|not got|not found|not seen) {_THINGS}",
    r"\b(?:the|not the|no) (?:faintest|slightest|foggiest)\b|\bno (?:idea|clue)\b",
    rf"\b(?:i|we|one) {_ADV}(?:cannot|could not|can not) {_ADV}{_FIND}",
    rf"(?:\bunable to|\bnot (?:been )?able to) {_ADV}{_FIND}",
    rf"^{_ADV}(?:cannot|could not) {_ADV}{_FIND}|^{_ADV}do not {_ADV}(?:know|recall|remember)\b",
    r"\bidk\b|\bdunno\b|\bbeats me\b|\bwho knows\b|^(?:i (?:will |would )?)?(?:pass|skip)(?: on this(?: one)?)?$",
    r"\bi (?:must |have to |will |would |should |choose to )?(?:abstain|decline|refuse|pass on)\b|\bhave to pass\b",
    r"\b(?:rather|prefer) (?:to )?not (?:to )?(?:answer|guess|say|speculate)\b|\bprefer to abstain\b",
    r"\b(?:i|we) (?:will|would|should) not (?:guess|speculate|answer)\b|\bi (?:must |have to )?give up\b",
    r"\bi am (?:stumped|stuck|lost|at a loss|out of my depth|drawing a blank)\b|^out of my depth\b",
    r"\btoo (?:hard|difficult|complex|complicated|tough|advanced|obscure) for (?:me|us)\b",
    r"\bbeyond what (?:i|we) (?:know|can)\b|\b(?:beyond|outside|exceeds?|above) (?:of )?(?:the )?(?:scope of |"
    r"limits of |range of )?(?:my|our) "
    r"(?:[\w-]{1,20} ){0,2}(?:knowledge|training|abilit|capabilit|expertise|understanding|data|cutoff|skill|"
    r"reach|scope)",
    rf"\b(?:i|we) (?:am|are) not {_ADV}(?:familiar with|aware of|knowledgeable|acquainted with)",
    r"\b(?:impossible|not possible|no way) (?:for me )?(?:to|of) (?:know|say|tell|determin|answer|ascertain|"
    r"establish|"
    r"find|solv|comput|calculat|giv|identify|verify)",
    rf"\b(?:cannot|could not|can never) {_ADV}be {_ADV}{_FOUND}",
    r"\b(?:not enough|no|not sufficient|insufficient|lack of|lacks?|inadequate) (?:[\w-]{1,20} ){0,3}"
    r"(?:information|data|context|details)\b|\b(?:insufficient|lacks?(?: of| the)?) (?:evidence|knowledge)\b",
    rf"\b(?:is|are|was|were|remains?|seems|appears|stays) {_ADV}{_OPEN}$",
    rf"\b(?:is|are|was|were|remains?) {_ADV}{_OPEN} (?:to|from|in|with|based|at|who|what|when|where|which|"
    rf"whether|how|why|if)\b",
    rf"^(?:the )?(?:answer |result )?(?:{_OPEN}|n/a|n\.a|na|not applicable|no answer)(?: to me| to us)?$",
    r"\b(?:passage|text|context|article|document|question|problem|prompt|paragraph|sources?|excerpt|puzzle|exercise|"
    rf"training data) {_ADV}(?:do|does|did) not {_ADV}(?:mention|say|state|specify|provide|contain|include|give|"
    rf"indicate|"
    r"reveal|tell|disclose|address)\b",
    r"\bhave not (?:a|the|any) (?:clue|idea)\b|\b(?:that|which) (?:i|we) do not (?:have|know)\b|"
    r"\bcan neither confirm\b",
    rf"\band (?:cannot|could not) {_ADV}{_FIND}",
    r"\b(?:nobody|no one|no-one) (?:really |actually |truly )?knows\b",
)
_OTHERS = (
    # German
    r"\bich weiss (?:\w{1,15} ){0,3}nicht\b|\bweiss ich (?:\w{1,15} ){0,3}nicht\b|\bkeine ahnung\b|\buberfragt\b",
    r"\b(?:ich kann|kann ich) (?:\w{1,20} ){0,5}nicht (?:beantworten|sagen|bestimmen|losen|ermitteln|angeben|"
    r"finden)\b|"
    r"^unbekannt$",
    r"\b(?:ist|sind) (?:mir )?(?:leider )?(?:nicht bekannt|unbekannt)\b|\b(?:ich habe|"
    r"habe ich) (?:\w{1,12} ){0,3}keine (?:info|"
    r"angabe|daten|kenntnis)",
    r"\bsich (?:leider )?nicht (?:bestimmen|ermitteln|sagen|beantworten)\b|\bnicht (?:bestimmt|beantwortet|"
    r"ermittelt) werden\b",
    # French
    r"\b(?:je|on) (?:ne )?(?:le )?sais? pas\b|\bje n'en sais rien\b|\bje ne connais pas\b|\bj'ignore\b|"
    r"\bje l'ignore\b",
    r"\baucune idee\b|\bje n'ai (?:pas|aucune) (?:de |d'|la )?(?:reponse|idee|information|acces|assez)|^inconnue?$",
    r"\bje ne (?:peux|suis) pas (?:en mesure de |capable de )?(?:repondre|determiner|dire|savoir)|"
    r"\bimpossible (?:de|a) (?:determiner|savoir|dire)",
    # Spanish
    r"\bno lo se\b|^(?:yo )?no se$|\bno se (?:la|el|quien|que|cual|cuando|donde|como|si|nada|exactamente)\b|"
    r"\bni idea\b|\bdesconozco\b",
    r"\bno tengo (?:ni )?(?:idea|informacion|suficiente|datos|acceso)|\bno (?:puedo|se puede) (?:responder|"
    r"determinar|saber|contestar|decir)",
    r"\bno conozco\b|\bno se sabe\b|^desconocid[oa]$",
    # Italian
    r"\bnon (?:lo )?so\b|\bnon conosco\b|\bnon ho (?:idea|informazioni|abbastanza|la risposta)|"
    r"\bnon ne ho idea\b|^sconosciut[oa]$",
    r"\bnon (?:posso|sono in grado di|riesco a|e possibile|si puo) (?:rispondere|determinare|dire|sapere)",
    # Portuguese
    r"\bnao (?:o )?sei\b|\bnao conheco\b|\bnao faco ideia\b|\bdesconheco\b|^desconhecid[oa]$",
    r"\bnao tenho (?:ideia|informac|certeza se|como saber|dados|acesso)|\bnao (?:posso|consigo|"
    r"e possivel) (?:responder|determinar|dizer|saber)",
    # Dutch
    r"\bik weet (?:\w{1,12} ){0,3}niet\b|\bweet ik (?:\w{1,12} ){0,3}niet\b|\bgeen idee\b|^onbekend$|"
    r"\bniet te bepalen\b",
    r"\bik kan (?:\w{1,15} ){0,5}niet (?:beantwoorden|bepalen|zeggen|oplossen)\b",
    # Polish
    r"\bnie wiem\b|\bnie znam\b|\bnie mam pojecia\b|\bnie (?:moge|jestem w stanie|potrafie|"
    r"da sie) (?:odpowiedziec|okreslic|powiedziec|ustalic)",
    r"^nieznan[yae]$",
    # Russian
    r"(?<!он )(?<!они )\bне знаю\b|\bпонятия не имею\b|\bбез понятия\b|\bне могу (?:ответить|сказать|"
    r"определить|решить|найти)",
    r"\bнеизвестно\b|\bне известно\b|\bнет (?:информации|данных)\b|\bзатрудняюсь ответить\b|"
    r"\bневозможно (?:определить|сказать|узнать)",
    # Chinese
    r"(?<![他她它你人谁])不知道|我?不(?:太|大|是很)?(?:清楚|了解|晓得)|(?:无法|無法|不能)(?:确定|確定|回答|"
    r"判断|判斷|得知|"
    r"解答|提供|确认|知道)",
    r"没有(?:足够的?)?(?:相关)?信息|^(?:答案)?未知$|我不会(?:做|解)",
    # Japanese
    r"(?:わか|分か|解)り(?:ません|かねます)|(?:わか|分か)らない|知りません|知らない|存じません|^不明(?:です)?$",
    r"(?:判断|お答え|回答|特定|解答)(?:することは?)?でき(?:ません|ない)",
    # Korean
    r"모르겠|모릅니다|몰라|모른다|알 수 ?없|알지 못|(?:답|대답|확인|판단)할 수 ?없",
    # Arabic
    r"لا (?:أعرف|اعرف|أعلم|اعلم|أدري|ادري)|لست أدري|ليس لدي|لا يمكن(?:ني)? (?:تحديد|الإجابة|معرفة)|"
    r"لا أستطيع (?:الإجابة|تحديد)|غير معروف",
    # Hindi
    r"नहीं (?:पता|जानत|मालूम)|(?:पता|मालूम|ज्ञात) नहीं|^अज्ञात$",
    # Turkish
    r"\bbilmiyor(?:um|uz)\b|\bbilemiyorum\b|\bfikrim yok\b|\bbilinmiyor\b|\bbelirlenemez\b|\bcevaplayamam\b",
)
_DOUBTS = (
    rf"(?:\bam |\bare |^){_ADV}not {_ADV}(?:sure|certain|confident)\b|\bunsure\b|\buncertain\b",
    r"\b(?:cannot|could not) (?:be|say|tell|recall|remember|know|determine|confirm)(?: it| this|"
    r" that)? (?:\w{1,12} )?"
    r"(?:sure|certain|exactly|precisely|definitively|with (?:any |absolute |full )?certainty|confidently)\b",
    r"\b(?:do not|cannot) (?:know|recall|remember) (?:it )?(?:for sure|for certain|exactly|precisely|"
    r"with certainty)\b",
    r"\b(?:hard|difficult|tough|tricky) to (?:say|tell|know|determine|be sure)\b",
    r"\bnicht (?:ganz )?sicher\b|\bpas (?:tout a fait )?(?:sure?|certaine?)\b|\bno estoy segur[oa]\b|"
    r"\bnon (?:ne )?sono sicur[oa]\b",
    r"\bnao tenho certeza\b|\bniet (?:helemaal )?zeker\b|\bnie jestem pew|\bне уверен|不(?:太)?确定|不能肯定|"
    r"確かではありません",
    r"확실하지 않|لست متأكد|यकीन नहीं|\bemin degil",
)
STRONG = re.compile("|".join(_ENGLISH))
FOREIGN = re.compile("|".join(_OTHERS))
WEAK = re.compile("|".join(_DOUBTS))
# One of these is in every clause in Latin letters that holds a phrase from above: looking for them is much quicker.
# fmt: off
CUES = (
    "clueless", "wish", "guess", "mystery", "look ", "forg", "no", "un", "zero", "faintest", "slightest",
    "foggiest", "idk", "beats", "pass", "skip",
    "abstain", "decline", "refuse", "give up", "stuck", "stumped", "lost", "a loss", "depth",
    "blank", "too ", "beyond", "outside", "exceed", "above", "impossible", "insufficient", "lack",
    "inadequate", "indeterm", "n/a", "n.a", "na", "hard to", "difficult to", "tough to",
    "tricky to", "nicht", "ahnung", "uberfragt", "keine", "pas", "rien", "ignore", "idee", "descon",
    "sais", "scon", "niet", "geen", "onbekend", "nie ", "bilm", "bilem", "fikrim", "bilin",
    "belirlenemez", "cevaplayamam", "degil",
)
# fmt: on

# What stands right before a phrase and takes it back: "not that", "if", "he said", "the song is".
NOT_MEANT = re.compile(
    r"(?:\b(?:not that|not because|never|if|when|whenever|unless|rather than|instead of|not (?:say|mean|saying|"
    r"claim)|"
    r"no longer|used to|said|says|saying|replied|replies|answered|answers|asked|told|called|titled|entitled|"
    r"named|song|"
    r"phrase|title|lyrics?|album|film|movie|book|means?|meaning|translates?|quoted?|wrote|writes|sings?|sang)"
    r"(?: (?:is|was|are|that|as|of|the|song|simply|just|only|to|me|it|him|her|them|us|called|titled|i|even|"
    r"really)){0,4}) $"
)
PROPOSES = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|presumably|likely|my (?:best |wild |educated )?guess|i (?:would |"
    r"will )?(?:guess|think|believe|"
    r"suspect|assume|suppose|estimate|say|go with|bet|pick|choose|imagine)(?! (?:i|we) )|i am (?:fairly|pretty|"
    r"quite|leaning)|"
    r"might be|could be|may be|may have|might have|must be|approximately|roughly|(?:about|around)(?= (?:\d|one|"
    r"two|three|four|five|six|seven|eight|nine|ten|an? (?:hundred|thousand|dozen|million)))|seems to be|"
    r"appears to be)\b\W{0,3}\w"
    r"|^(?:and |so |then |well |anyway )*(?:it|that|this|he|she|they|the (?:correct |right |likely )?(?:answer|"
    r"one)) (?:is|was|are|were) "
    r"(?!not |too |beyond |impossible|hard|difficult|because|an? (?:\w+ )?(?:hard|difficult|tricky|complex)|"
    r"something|possible|worth|best|"
    r"important|better|necessary|outside|unclear|unknown|recommended|advisable|just |simply )\w"
    r"|\b(?:vielleicht|wahrscheinlich|vermutlich|moglicherweise|ich (?:glaube|denke|vermute|tippe)|wurde sagen)\b"
    r"|\bpeut-etre\b|\bprobablement\b|\bje (?:crois|pense|dirais)\b|\b(?:quizas?|tal vez|probablemente|creo|"
    r"diria|supongo)\b"
    r"|\b(?:forse|probabilmente|credo|penso|direi|talvez|provavelmente|acho|creio)\b|\b(?:misschien|"
    r"waarschijnlijk|ik (?:denk|gok))\b"
    r"|\b(?:moze|prawdopodobnie|chyba|mysle)\b|\b(?:возможно|может быть|вероятно|наверное|думаю|кажется)\b"
    r"|(?<!不)可能|也许|大概|或许|应该是|我(?:猜|觉得|认为)|估计|たぶん|多分|おそらく|恐らく|かもしれ|"
    r"と思(?:い|う)|でしょう"
    r"|아마|것 같|일 수도|ربما|قد يكون|أعتقد|اعتقد|أظن|على الأرجح|शायद|संभवतः|मुझे लगता|हो सकता|\b(?:belki|"
    r"muhtemelen|sanirim|galiba|olabilir)\b"
)
# Advice to the reader is no answer, even with a "maybe" in it.
SUGGESTS = re.compile(
    r"\byou (?:can|could|may|might|should|would|will|need|want|have)\b|\b(?:please|feel free|let me know|"
    r"happy to|glad to|consult|"
    r"i (?:recommend|suggest|can help|could help|would need|will need|hope|apologize|am sorry|could be wrong|"
    r"may be wrong))\b"
    r"|\b(?:could|can|would) you\b"
)
FILLER = re.compile(
    r"\b(?:not|no|never|cannot|without|lack\w*|my|i am|i was|i need|training|cut-?off|data|information|"
    r"knowledge|context|question|"
    r"problem|records?|sources?|details?|clarif\w+|provid\w+|sorry|apolog\w+|help|check|recommend|beyond|"
    r"outside|too|difficult|"
    r"depends|requires?|needs?|future|private|confidential|fictional|ambiguous|unclear|unknown|real-time|ai|"
    r"language model|you|your|"
    r"unfortunately|well|honestly|frankly|hmm+|oh|ok|okay|alas|regrettably|sadly|afraid|uh|um|really|actually|"
    r"thanks?|explanation|note|answer|"
    r"in short|overall|again|guessing|boh|beh|bof|pues|tja|bueno)\b"
    r"|\b(?:tut mir leid|entschuldigung|leider|desole\w?|malheureusement|lo siento|lamentablemente|disculpa|"
    r"mi dispiace|purtroppo|"
    r"desculpe|sinto muito|infelizmente|helaas|het spijt me|przepraszam|przykro mi|niestety|maalesef|uzgunum)\b"
    r"|извин|сожалени|прост(?:и|ите)|抱歉|对不起|不好意思|申し訳|すみません|残念|죄송|미안|عذرا|آسف|للأسف|क्षमा|माफ"
)
CONTRAST = (
    r"\b(?:but|however|though|although|yet|nevertheless|nonetheless|still,|aber|doch|jedoch|allerdings|mais|"
    r"cependant|toutefois|"
    r"pourtant|pero|sin embargo|aunque|ma|pero|tuttavia|mas|porem|contudo|no entanto|maar|echter|ale|jednak|"
    r"lecz|но|однако|"
    r"ama|fakat|ancak)\b|\bexcept that\b|但是?|不过|然而|しかし|ですが|けれども?|けど|(?<=ません)が|하지만|"
    r"그러나|지만|ولكن|"
    r"لكن|लेकिन|मगर"
)
# How a clause begins that carries an abstention on, rather than adding an answer to it.
GOES_ON = re.compile(
    r"(?:or|and|nor|who|whom|whose|what|when|where|which|whether|how|why|if|because|since|as|so|therefore|that|"
    r"such|eg|ie|for|due|"
    r"given|with|let alone|at|in|on|to|of|from|by|until|unless|especially|even|only|"
    r"wer|was|wann|wo|ob|wie|warum|welche\w*|da|weil|denn|und|qui|que|quand|ou|si|comment|pourquoi|quel\w*|car|"
    r"parce|et|quien\w*|"
    r"cuando|donde|cual\w*|porque|y|ni|chi|quando|dove|quale|perche|quem|onde|qual|wat|wanneer|waar|hoe|welke|"
    r"omdat|want|"
    r"kto|co|kiedy|gdzie|czy|jak|poniewaz|кто|что|когда|где|как|потому|так|поскольку|как\w+)\b"
)
# How a clause begins that leads up to an abstention.
LEADS_IN = re.compile(
    r"(?:after|as|at|based|because|before|by|despite|due|during|even|for|from|given|in|on|since|to|with|"
    r"without|while|until|upon|"
    r"under|when|if|although|though|unless|regarding|concerning|having|so|and|also|therefore|thus|hence|then|"
    r"finally|let me|let us)\b"
)
