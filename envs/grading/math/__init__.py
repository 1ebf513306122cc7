"""The math grader: text -> one spelling -> shape -> exact comparison; math-verify only for the rest."""
