"""Networks: the embedded ones, wrapping of others, their names as texts, training, the doctor."""
