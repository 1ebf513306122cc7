"""The code grader: find the program in a completion, read the tests, and compare outputs."""
