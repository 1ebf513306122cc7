"""The graders and the envs, as other frameworks take them. Each module stands alone."""
