"""Conformance suites, one for each protocol: subclass one, and override its fixture with what is to be tested.

    from hago.testing.methods import RoundingSuite

    class TestMine(RoundingSuite):
        @pytest.fixture
        def method(self):
            return MINE

pytest is needed here, and nowhere else in Hago.
"""
