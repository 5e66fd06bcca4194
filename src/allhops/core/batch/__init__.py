"""Many destinations at once: the same rules as for one (course.py), for thousands of courses in one array operation.

    window of destinations -> strategy asks -> lane builds ... lane records -> survey -> strategy asks again -> harvest

What a course knows is always read from the ledger anew (survey.py), never kept beside it. This package needs numpy and
knows no packet, no clock and no socket.
"""
