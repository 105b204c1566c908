"""The positive control: invented facts taught by this training and asked by this scorer."""
