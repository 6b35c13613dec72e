"""/cloud/v1/jobs"""
