"""Which boxed answers the mathematics reward pays, by families of notation."""

import pytest

from rlvr.testing import rollout, task
from rlvr.types import Grade
from rlvr_rewards.math import Math


def verdict(reply: str, truth: object) -> str:
    """Give the verdict's name, or UNGRADED."""
    posed = task("q", truth)
    grade = Math().grade(posed, rollout(reply, of=posed))
    return str(grade.verdict) if isinstance(grade, Grade) else "UNGRADED"


# (answer, gold) that are equal, whatever the spelling
RIGHT = [
    ('6\\sqrt{3}\\text{ cm}', '6\\sqrt{3}'), ('8\\pi\\text{ cm}^2', '8\\pi'), ('8\\pi\\,\\mathrm{cm}^2', '8\\pi'),
    ('8\\pi\\text{ in}^3', '8\\pi'), ('8\\pi', '8\\pi\\text{ cm}^2'), ('2\\sqrt2\\text{ m}', '2\\sqrt{2}'),
    ('\\sqrt{2}\\text{ m/s}', '\\sqrt{2}'), ('2\\sqrt{3} \\approx 3.46', '2\\sqrt{3}'),
    ('2\\sqrt{3} \\approx 3.46', '3.46'), ('x \\approx 7.5', '7.5'), ('1 \\text{ m}^2', '10000 \\text{ cm}^2'),
    ('36\\text{ km/h}', '10\\text{ m/s}'), ('19 square meters', '19\\text{ m}^2'), ('19 m^2', '19'),
    ('19 miles per hour', '19\\text{ mph}'), ('1 liter', '1000\\text{ cm}^3'), ('19 cm2', '19'),
    ('\\{\\}', '\\emptyset'), ('\\{ \\}', '\\text{no solution}'), ('0.\\bar{3}', '1/3'), ('0.\\bar3', '\\frac13'),
    ('1011_{\\text{two}}', '1011_2'), ('1011_2', '1011_{\\text{two}}'), ('all real numbers', '\\mathbb{R}'),
    ('\\text{all real numbers}', '(-\\infty,\\infty)'), ('(B) 12', '(B) 12'), ('(B) B', 'B'),
    ('B. Point of view', '(B)'), ('(B) A', '(B) A'), ('A. A dog', 'A'),
    ('25\\pi\\text{ sq. cm}', '25\\pi'),
    ("4:51:06 p.m.", "4\\!:\\!51\\!:\\!06 \\text{ p.m.}"), ("[5]", "5"),
    ('19', '19'), ('19.0', '19'), ('+19', '19'), ('$19', '19'), ('19 apples', '19'), ('x=19', '19'),
    ('\\approx 19', '19'), ('19.', '19'), ('1{,}000', '1000'), ('1,000,000', '1000000'), ('1 000 000', '1000000'),
    ('10^6', '1000000'), ('2.5 million', '2500000'), ('2.5\\times10^6', '2500000'),
    ('1.6e-19', '1.6\\times 10^{-19}'), ('3\\frac12', '7/2'), ('3 1/2', '3.5'), ('3½', '3.5'), ('\\dfrac72', '3.5'),
    ('0.95', '19/20'), ('\\frac{19}{20}', '0.95'), ('95\\%', '0.95'), ('-\\frac{1}{2}', '-0.5'),
    ('\\frac{-1}{2}', '-0.5'), ('\\frac{1}{-2}', '-0.5'), ('50\\%', '50\\%'), ('50', '50\\%'), ('0.5', '50\\%'),
    ('50 percent', '\\frac12'), ('90^{\\circ}', '90'), ('90 degrees', '90^\\circ'),
    ('\\frac{\\pi}{2} \\text{ radians}', '\\frac{\\pi}{2}'), ('5\\text{ cm}', '5'), ('5 cm', '5\\text{ cm}'),
    ('50 mm', '5\\text{ cm}'), ('12 \\text{ m/s}', '12'), ('12\\sqrt{13}\\text{ feet}', '12\\sqrt{13}'),
    ('480 + 480\\sqrt{3}', '480 + 480\\sqrt{3}\\text{ feet}'), ('864 square inches', '864 \\mbox{ inches}^2'),
    ('\\$36', '36'), ('36 dollars', '\\$36'), ('£7.50', '7.5'), ('7.50', '\\$7.50'), ('[0, \\infty)', '[0,\\infty)'),
    ('x \\ge 0', '[0,\\infty)'), ('[0,+\\infty)', '[0,\\infty)'), ('x\\in[0,\\infty)', '[0,\\infty)'),
    ('(-\\infty,2)\\cup(3,\\infty)', '(-\\infty, 2) \\cup (3, \\infty)'),
    ('(3,\\infty)\\cup(-\\infty,2)', '(-\\infty, 2) \\cup (3, \\infty)'),
    ('x<2 \\text{ or } x>3', '(-\\infty, 2) \\cup (3, \\infty)'), ('x \\neq 3', '(-\\infty,3)\\cup(3,\\infty)'),
    ('\\mathbb{R}\\setminus\\{3\\}', '(-\\infty,3)\\cup(3,\\infty)'), ('-2 < x < 5', '(-2,5)'), ('(-2,5)', '-2<x<5'),
    ('5 > x > -2', '(-2,5)'), ('\\{1,2,3\\}', '\\{3,2,1\\}'), ('1,2,3', '\\{3,2,1\\}'), ('3, 2, 1', '1,2,3'),
    ('1, 2 and 3', '1,2,3'), ('1\\text{ and }2', '2,1'), ('x=1 \\text{ or } x=2', '1,2'), ('\\pm 3', '3,-3'),
    ('3, -3', '\\pm 3'), ('1\\pm\\sqrt{19}', '1+\\sqrt{19},1-\\sqrt{19}'),
    ('\\frac{1 \\pm \\sqrt{5}}{2}', '\\frac{1+\\sqrt5}{2}, \\frac{1-\\sqrt5}{2}'), ('(1,2)', '(1,2)'),
    ('(x,y)=(1,2)', '(1,2)'), ('\\left(1,\\,2\\right)', '(1,2)'), ('x=1, y=2', '(1,2)'),
    ('(0.5, 2)', '\\left(\\frac12,2\\right)'), ('\\langle 1,2\\rangle', '(1,2)'),
    ('\\begin{bmatrix}1\\\\2\\end{bmatrix}', '\\begin{pmatrix}1\\\\2\\end{pmatrix}'),
    ('(1,2)', '\\begin{pmatrix}1\\\\2\\end{pmatrix}'),
    ('\\begin{pmatrix}0.5&2\\\\3&4\\end{pmatrix}', '\\begin{pmatrix} \\frac12 & 2 \\\\ 3 & 4 \\end{pmatrix}'),
    ('B', '\\text{(B)}'), ('(B)', 'B'), ('\\text{B}', '(B)'), ('\\textbf{(B)}', 'B'), ('(B) 12', 'B'), ('B. 12', 'B'),
    ('(B)\\ 12', '12'), ('\\textbf{(C) } 12', '12'), ('B) Paris', '(B)'), ('Option B', 'B'),
    ('\\text{Evelyn}', '\\text{Evelyn}'), ('evelyn', 'Evelyn'), ('\\text{odd}', 'odd'), ('Yes', '\\text{Yes}'),
    ('no solution', '\\text{No solution}'), ('\\emptyset', '\\text{no solution}'), ('\\varnothing', '\\emptyset'),
    ('x^2+2x+1', '(x+1)^2'), ('2x+3', '3+2x'), ('y=2x+3', '2x+3'), ('y=2x+3', 'y=2x+3'), ('2x-y+3=0', 'y=2x+3'),
    ('y-3=2x', 'y=2x+3'), ('\\frac{x+5}{6}', '\\frac{x}{6}+\\frac56'), ('f(x)=x^2', 'x^2'),
    ('\\frac{\\sqrt{3}}{3}', '\\frac{1}{\\sqrt{3}}'), ('\\frac{1}{4}\\pi', '\\frac{\\pi}{4}'),
    ('0.25\\pi', '\\frac{\\pi}{4}'), ('12π', '12\\pi'), ('\\sqrt[3]{16}', '2\\sqrt[3]{2}'), ('2^{1/2}', '\\sqrt{2}'),
    ('\\ln 4', '2\\ln 2'), ('e^{2}', 'e^2'), ('\\frac{1}{\\cos x}', '\\sec x'), ('4:3', '4:3'), ('1024', '2^{10}'),
    ('52_8', '52_8'), ('52_{8}', '52_8'), ('52', '52_8'), ('4:30 p.m.', '4:30 \\text{ p.m.}'),
    ('4:30 PM', '4:30 \\text{ p.m.}'), ('11,\\! 111,\\! 111,\\! 100', '11111111100'),
    ('-\\frac{35}{9}', '-3\\frac{8}{9}'), ('0.\\overline{3}', '0.\\overline{3}'), ('\\frac13', '0.\\overline{3}'),
    ('0.333333', '\\frac13'), ('6366.197724', '\\frac{20000}{\\pi}'), ('n=255', 'n = 255'), ('255', 'n = 255'),
    ('K=8', '8'), ('8.24 mph', '\\approx 8.24 \\text{ mph}'), ('8.24', '\\approx 8.24 \\text{ mph}'),
    ('A,D,F,G,H', '\\text{A, D, F, G, H}'), ('H, E', '\\text{H, E}'), ('6, 8, 10', '6, 8\\text{, and }10'),
    ('45^\\circ, 135^\\circ', '45, 135'), ('a=1,b=2', 'a=1,b=2'), ('x^2 - 5x + 6 = 0', 'x^2-5x+6=0'),
    ('\\cos^2\\alpha', '\\cos^2 \\alpha'), ('\\frac{189}{2}\\sqrt{3}', '\\frac{189\\sqrt3}{2}'),
    ('1\\text{ hour } 30\\text{ minutes}', '1 hour 30 minutes'), ('\\text{Monday}', 'Monday'),
    ('(-4, 27);(2, 15)', '(2,15),(-4,27)'), ('[5.8,6)', '[\\frac{29}{5},6)'),
    ('\\frac{3}{5} - \\frac{4}{5}i', '\\frac{3-4i}{5}'), ('-2^{49}', '-2^{49}'), ('\\frac{1}{2^{98}}', '2^{-98}'),
    ('19\\,\\text{cm}^2', '19'), ('\\boxed{19}', '19'), ('19\\ ', '19'), ('\\mathbf{19}', '19'), ('\\(19\\)', '19'),
    ('{19}', '19'), ('(19)', '19'), ('５', '5'), ('٣', '3'), ('x＝5', '5'), ('x \\in (2,3)', '(2,3)'),
    ('2\\le x\\le 3', '[2,3]'), ('\\frac{5}{3}', '1\\frac{2}{3}'), ('120\\pi\\text{ cubic cm}', '120\\pi'),
    ('1/2, 1/3', '\\frac12,\\frac13'), ('\\log_2 3', '\\frac{\\ln 3}{\\ln 2}'), (']0,9[', '(0,9)'),
    ('\\{x \\mid x>3\\}', '(3,\\infty)'), ('\\{x | -2 \\le x < 5\\}', '[-2,5)'), ('(3,\\infty)', '\\{x : x > 3\\}'),
    ('[3, \\infty[', '[3,\\infty)'), ('\\{x\\in\\mathbb{R} : x\\ne 0\\}', '(-\\infty,0)\\cup(0,\\infty)'),
    ('1,000.99', '1000.99'), ('1.000,99', '1000.99'), ('3,14', '3.14'), ('10^{-2}', '0.01'), ('1.2e3', '1200'),
    ('100\\%', '1'), ('x \\leqslant 3', 'x \\le 3'), ('3 \\ge x', 'x\\le 3'), ('x\\in(-\\infty,3]', 'x \\le 3'),
    ('x = \\frac{1}{2}', '\\frac{1}{2}'), ('\\frac{1}{2} = x', '\\frac12'), ('a=1', '1'),
    ('y = \\frac{2}{3} x - 1', 'y=\\frac{2x}{3}-1'), ('3y=2x-3', 'y=\\frac{2x}{3}-1'), ('2x+3y=6', '2x + 3y - 6 = 0'),
    ('4x+6y=12', '2x+3y=6'), ('\\sin^2 x', '(\\sin x)^2'), ('\\sin(2x)', '2\\sin x\\cos x'),
    ('\\tan x', '\\frac{\\sin x}{\\cos x}'), ('\\log 100x', '\\log(100x)'), ('\\ln(x^2)', '2\\ln x'),
    ('\\sqrt{x}\\sqrt{y}', '\\sqrt{xy}'), ('x^{1/2}', '\\sqrt{x}'), ('\\sqrt[3]{x^2}', 'x^{2/3}'), ('|x-1|', '|1-x|'),
    ('n!', 'n!'), ('2^{n+1}', '2\\cdot 2^n'), ('(-1)^{n}', '(-1)^n'), ('\\frac{a^2-b^2}{a-b}', 'a+b'), ('1+i', 'i+1'),
    ('-i', '-i'), ('\\frac{1}{2}+\\frac{\\sqrt{3}}{2}i', '\\frac{1+i\\sqrt3}{2}'),
    ('e^{i\\pi/3}', 'e^{\\frac{i\\pi}{3}}'), ('\\cos\\frac{\\pi}{3}', '\\cos\\frac{\\pi}{3}'),
    ('\\left\\{ -1, \\frac{1}{2} \\right\\}', '\\left\\{\\frac12,-1\\right\\}'), ('(1,2),(3,4)', '(3,4),(1,2)'),
    ('\\{(1,2),(3,4)\\}', '\\{(3,4),(1,2)\\}'), ('(1,2) \\text{ and } (3,4)', '(1,2),(3,4)'),
    ('\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}', '\\left[\\begin{array}{cc}1 & 2\\\\3 & 4\\end{array}\\right]'),
    ('\\begin{pmatrix}\\sqrt{2}/2\\\\0\\end{pmatrix}', '\\begin{pmatrix}\\frac{1}{\\sqrt2}\\\\0\\end{pmatrix}'),
    ('\\frac{1}{2}\\begin{pmatrix}2\\\\4\\end{pmatrix}', '\\frac{1}{2}\\begin{pmatrix}2\\\\4\\end{pmatrix}'),
    ('\\angle A = 30^\\circ', '30^\\circ'), ('m\\angle A=30', '30'), ('AB = 5', '5'), ('|AB| = 5', '5'),
    ('P(A) = \\frac13', '\\frac13'), ('\\text{Area} = 12', '12'), ('V=36\\pi', '36\\pi'), ('S_{10}=55', '55'),
    ('f(2)=7', '7'), ('f^{-1}(x)=\\frac{x-1}{2}', '\\frac{x-1}{2}'), ('\\overline{AB}=5', '5'),
    ('a_n = 2n+1', '2n+1'), ('\\frac{dy}{dx} = 2x', '2x'), ('x_1 = 3, x_2 = 5', '3,5'),
    ('(a,b,c)=(1,2,3)', '(1,2,3)'), ('a=1,b=2,c=3', '(1,2,3)'), ('a+b=5', '5'), ('5\\text{ apples}', '5'),
    ('5~\\text{cm}', '5'), ('5\\,\\mathrm{cm}', '5'), ('5\\;\\rm cm', '5'), ('5\\text{cm}^{3}', '5'),
    ('60\\text{ mph}', '60'), ('60 \\text{ miles per hour}', '60'), ('5 \\text{ units}^2', '5'), ('\\$5.00', '5'),
    ('5\\ \\text{dollars}', '5'), ('5\\text{ square units}', '5'), ('20\\%', '20\\%'), ('20 \\%', '\\frac15'),
    ('0.2', '20\\%'), ('72\\text{ degrees}', '72^\\circ'), ('1.5 \\text{ hours}', '90 \\text{ minutes}'),
    ('2 kg', '2000 g'), ('15\\text{ ft}^2', '15\\text{ square feet}'), ('7 \\frac{1}{2}', '7.5'),
    ('7\\tfrac12', '7.5'), ('-1\\frac{1}{2}', '-1.5'), ('\\frac{3}{2}\\pi', '1.5\\pi'),
    ('\\dfrac{-3}{4}', '-\\frac{3}{4}'), ('-\\frac{-3}{4}', '\\frac34'), ('{3}/{4}', '\\frac34'),
    ('\\frac{3.5}{7}', '0.5'), ('3:4', '3:4'), ('3 : 4', '3:4'),
    ('\\text{Monday, Tuesday}', '\\text{Tuesday, Monday}'), ('\\textbf{Yes}', 'yes'), ('True', '\\text{True}'),
    ('\\text{A}', 'A'), ('\\mathrm{(A)}', 'A'), ('A)', 'A'), ('(A) 5', 'A'), ('\\text{(A) } \\frac12', 'A'),
    ('C. 7', 'C'), ('\\text{C: } 7', 'C'), ('Choice C', 'C'), ('2\\cdot 3^5', '2 \\times 3^5'), ('2.0', '2'),
    ('02', '2'), ('2.', '2'), ('2,000', '2000'), ('-2', '−2'), ('\\infty', '\\infty'), ('+\\infty', '\\infty'),
    ('-\\infty', '-\\infty'), ('\\text{infinity}', '\\infty'), ('\\text{DNE}', '\\text{does not exist}'),
    ('\\text{undefined}', 'undefined'), ('\\text{No real solutions}', '\\text{no solution}'),
    ('\\text{all real numbers}', '(-\\infty,\\infty)'), ('\\mathbb{R}', '(-\\infty,\\infty)'), ('ℝ', '\\mathbb{R}'),
    ('2\\pi r', '2 \\pi r'), ('\\pi r^2', '\\pi{r}^2'), ('\\frac{4}{3}\\pi r^3', '\\frac{4\\pi r^3}{3}'),
    ('x^{2}+y^{2}=4', 'x^2+y^2=4'), ('(x-1)^2+(y+2)^2=9', '(x-1)^2+(y+2)^2=3^2'), ('x^2+y^2-4=0', 'x^2+y^2=4'),
    ('k\\pi, k\\in\\mathbb{Z}', 'k\\pi, k \\in \\mathbb{Z}'), ('\\frac{\\pi}{2}+k\\pi', '\\frac{\\pi}{2}+\\pi k'),
    ('\\frac{x}{y}', 'x/y'), ('xy', 'yx'), ('ab', 'ba'), ('3x(y+z)', '3xy+3xz'), ('1 - \\frac{1}{e}', '1-e^{-1}'),
    ('\\sqrt{2}/2', '\\frac{1}{\\sqrt2}'), ('\\frac{1}{2}x^2 + 3x', '0.5x^2+3x'), ('x^2/2', '\\frac{x^2}{2}'),
    ('(x+1)/2', '\\frac{x+1}{2}'), ('2x/(x+1)', '\\frac{2x}{x+1}'), ('5^{1/3}', '\\sqrt[3]{5}'),
    ('5^{\\frac13}', '\\sqrt[3]{5}'), ('3√(2)', '3\\sqrt2'), ('∛2', '\\sqrt[3]{2}'), ('x²+1', 'x^2+1'),
    ('a₁+a₂', 'a_1+a_2'), ('θ', '\\theta'), ('α+β', '\\alpha+\\beta'), ('½', '0.5'),
]  # fmt: skip
# (answer, gold): unequal, unevaluated, several, or denied
WRONG = [
    ('12+7', '19'), ('not 19', '19'), ('anything but 19', '19'), ('x \\ne 19', '19'), ('19 or 20', '19'),
    ('\\{18,19,20\\}', '19'), ('18<x<20', '19'), ('5!', '120'), ('\\frac{38}{2}', '19'), ('\\sqrt{361}', '19'),
    ('38/2', '19'), ('19!', '19'), ('19x', '19'), ('19\\pi', '19'), ('\\int_0^1 19 dx', '19'),
    ('\\sum_{i=1}^{19} 1', '19'), ('>19', '19'), ('\\ge 19', '19'), ('x>19', '19'), ('19-20', '19'),
    ('19 to 20', '19'), ('18..20', '19'), ('\\max(19,3)', '19'), ('|19|', '19'), ('|-19|', '19'), ('2^{10}', '1024'),
    ('\\binom{6}{3}', '20'), ('\\lfloor 19.5\\rfloor', '19'), ('19 \\pm 1', '19'), ('(19, 20)', '19'),
    ('19, 20', '19'), ('19;20', '19'), ('\\boxed{19}, \\boxed{20}', '19'), ('\\int 2x\\,dx', 'x^2'),
    ('\\sum_{k=1}^n k', '\\frac{n(n+1)}{2}'), ('\\binom{n}{2}', '\\frac{n(n-1)}{2}'),
    ('\\lim_{x\\to0}\\frac{\\sin x}{x}', '1'), ('\\sin 60^\\circ', '\\frac{\\sqrt3}{2}'),
    ('\\arctan 1', '\\frac{\\pi}{4}'), ('2x=10', 'x=5'), ('-x \\ge -1', 'x\\le 1'), ('3x+5\\le 8', 'x\\le1'),
    ('(1,2)', '(2,1)'), ('[1,2)', '(1,2)'), ('\\{1,2\\}', '\\{1,3\\}'), ('1,2', '1,2,3'), ('1,2,3,4', '1,2,3'),
    ('x=2', 'x=3'), ('y=5', 'x=5'), ('2,3', '(3,2)'), ('C', '(B)'), ('B or C', 'B'), ('A, B, C, D', 'B'),
    ('ellipse or hyperbola', '\\text{ellipse}'), ('not an ellipse', '\\text{ellipse}'), ('It is not odd', 'odd'),
    ('even and odd', 'odd'), ('5 m', '5 cm'), ('5 hours', '5 minutes'), ('50\\%', '50'), ('0.5\\%', '0.5'),
    ('1.4142', '\\sqrt{2}'), ('0.333', '\\frac13'), ('0.33', '\\frac13'), ('3.14', '\\pi'), ('\\frac{22}{7}', '\\pi'),
    ('9999', '10000'), ('1e999999999', '5'), ('52_9', '52_8'), ('42', '52_8'), ('5 million', '5'), ('5', '5 million'),
    ('19 is wrong', '19'), ('19 is not the answer', '19'), ('less than 19', '19'),
    ('\\text{either }18\\text{ or }19', '19'), ('1 2', '12'), ('1 9', '19'), ('19/0', '19'), ('x+1', 'x+2'),
    ('x', 'y'), ('2x', '2y'), ('\\sqrt{2}', '-\\sqrt{2}'), ('\\pm\\sqrt2', '\\sqrt2'), ('a', 'b'),
    ('\\frac{d}{dx}x^2', '2x'), ('x^2+C', 'x^2'),
    ('\\begin{pmatrix}1\\\\2\\end{pmatrix}', '\\begin{pmatrix}2\\\\1\\end{pmatrix}'), ('', '19'), (' ', '\\sqrt2'),
    ('?', '5'), ('...', '5'), ('\\dots', '1'), ('19 = 20', '19'), ('0', '\\emptyset'), ('\\{\\}', '0'),
    ('x<3', 'x>3'), ('x\\le3', 'x<3'), ('(-\\infty,2)', '(-\\infty,2)\\cup(3,\\infty)'), ('1:2', '2:1'),
    ('3:4', '0.75'), ('all', '5'), ('19 + 0', '19'), ('19*1', '19'), ('19^1', '19'), ('-(-19)', '19'), ('--19', '19'),
    ('0x13', '19'), ('0b10011', '19'), ('XIX', '19'), ('\\{1,2\\}\\cup\\{4\\}', '\\{1,2,3\\}'), ('[0,9]', ']0,9['),
    ('2^{-1}x', '\\frac12'), ('5\\text{ s}', '5\\text{ m}'), ('a', 'A'), ('(A) 5', 'B'), ('(C) 12', '13'),
    ('x=3,y=2', '(2,3)'), ('x^2+y^2=9', 'x^2+y^2=4'), ('2x+3y=7', '2x+3y=6'), ('\\tan x', '\\cot x'),
    ('\\log_3 2', '\\log_2 3'), ('\\sqrt{x^2+1}', 'x+1'), ('n', 'n!'), ('x+1', '|x+1|'), ('0.2', '20'), ('20', '0.2'),
    ('e^{2}', 'e^{3}'), ('\\pi', '3.14'), ('3.14', '\\frac{157}{50}+0.001'), ('\\mathbb{R}', '(0,\\infty)'),
    ('yes', 'no'), ('no', 'yes'), ('\\text{not even}', '\\text{even}'), ('12:30 p.m.', '12:30 a.m.'),
    ('5, 5', '5, 6'), ('\\{5\\}', '\\{5,6\\}'), ('(5)', '(5,5)'), ('f(x)=2x', 'f(x)=3x'), ('y=2x', 'x=2y'),
    ('x>2', 'x\\ge2'), ('x<2 \\text{ or } x>4', '(-\\infty,2)\\cup(3,\\infty)'), ('4:3', '3:4'),
    ('90^\\circ', '\\frac{\\pi}{2}'), ('2^3\\cdot3^2', '72'), ('2^{-1}', '\\frac{1}{2}'),
    ('\\frac{(n+1)!}{n!}', 'n+1'), ('\\frac{1}{10^{2}}', '0.01'), ('\\{1,2\\}\\cup\\{3\\}', '\\{1,2,3\\}'),
    ('e^{\\ln 2}x', '2x'),
    ('0.\\bar{4}', '1/3'), ('1011_{\\text{three}}', '1011_2'), ('2\\sqrt{3} \\approx 7.5', '2\\sqrt{3}'),
    ('2\\sqrt{3} \\approx 7.5', '7.5'), ('\\pi \\approx 4', '\\pi'),
    ('2\\sqrt{3} \\approx 15/2', '7.5'), ('2\\sqrt3 \\text{ cm} \\approx 7.5', '7.5'), ('19 m^2', '19 m'),
    ('19 m/s', '19 m'), ('19 square meters', '19 m'), ('19 m', '19\\text{ m}^2'), ('19 radians', '19^\\circ'),
    ('19\\text{ rad}', '19°'), ('6\\sqrt{3}\\text{ cm}', '6\\sqrt{3}\\text{ m}'),
    ('8\\pi\\text{ cm}^2', '8\\pi\\text{ cm}'), ('at least 19', '19'), ('\\text{at most }19', '19'), ('19R3', '19'),
    ('19 r 3', '19'), ('19 remainder 3', '19'), ('19\\text{ apples or more}', '19'), ('19 apples or more', '19'),
    ('19 apples at most', '19'), ('2ab', '2cd'), ('\\text{cannot be }19', '19'), ('2\\pi m', '2\\pi n'), ('B A', 'B'),
    ('(A) (B)', 'A'), ('(A) (B)', 'B'), ('(A) (B) (C)', 'B'), ('(A) (B) (C)', 'C'), ('A. B', 'A'), ('A. B', 'B'),
    ('A: B', 'A'), ('(a) (b)', '(B)'), ('A) B)', 'B'), ('(A) 12', '(B) 12'), ('(A) 1, 2', '(B) 1, 2'),
    ('A B', 'A'), ('A B', 'B'), ('(A) or B', 'A'), ('B. (A)', 'B'), ('B. C', '(B) 12'),
]  # fmt: skip


@pytest.mark.parametrize(("said", "gold"), RIGHT)
def test_equal_answers_are_right(said: str, gold: str) -> None:
    assert verdict(f"So \\boxed{{{said}}}", gold) == "CORRECT"


@pytest.mark.parametrize(("said", "gold"), WRONG)
def test_other_answers_are_wrong(said: str, gold: str) -> None:
    assert verdict(f"So \\boxed{{{said}}}", gold) == "WRONG"


GOLDS = sorted({gold for _, gold in RIGHT + WRONG if gold.strip()})


@pytest.mark.parametrize("gold", GOLDS)
def test_a_gold_is_right_however_it_is_wrapped(gold: str) -> None:
    for form in ("{}", "  {} ", "${}$", "\\displaystyle {}"):
        assert verdict(f"\\boxed{{{form.format(gold)}}}", gold) == "CORRECT"
    assert verdict(f"The answer is ${gold}$.", gold) == "CORRECT"
