"""What the suite's own experiments found: each question, its contrasts, and the sentences that follow from them."""
