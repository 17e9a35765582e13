"""The safety report: is it safe to adapt this model on these images?"""
