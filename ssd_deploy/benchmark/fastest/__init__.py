"""What is the fastest way to run a detector on this machine that costs no more than is allowed?

MODEL -> forms: the network in each precision, each file that the export steps make of it
      -> candidates: a form in a backend, with its variants
      -> trials: each beside float32, in turns, and over the same images as the reference: speed and loss
      -> finals: the fastest few that are allowed, with other numbers of threads, all in turns
      -> the fastest, and the commands that make and use it
"""
