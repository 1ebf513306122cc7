"""The code grader: which program a completion holds, what its tests are, whether their outputs agree."""
