"""The math grader: text -> one spelling -> shape -> exact comparison.

From the bottom up: `symbols` and `units` are tables. `text` finds the answer in a completion, `clean` brings it to one
spelling, `words` reads its phrases, `golds` mends the golds of data sets. `parse` makes a tree of a formula,
`arithmetic` and `value` compute with it. `number`, `quantity` and `leaf` compare single answers. `shape`, `relations`
and `reading` take an answer apart, `sets`, `equations`, `choices` and `compare` compare the parts, and `grader` gives
the verdict.
"""
