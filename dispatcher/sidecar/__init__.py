"""What stands around the user's script: launcher, staging, publication. The same pieces serve pods and local
processes.
"""
