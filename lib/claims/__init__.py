"""The papers' claims and their verdicts, computed from the records by the rules of config/claims.yaml."""

from lib.claims.decide import NOT_TESTABLE, VERDICTS
from lib.claims.effects import COUNTED, SUPPORTS
from lib.claims.material import frozen_in_words
from lib.claims.rules import Claim, ClaimError, Rule, load
from lib.claims.verdicts import Verdict, alone, files, judge, judge_all, table, verdicts
from lib.claims.words import cause_words, measure_words, networks_in_short, stated_words
