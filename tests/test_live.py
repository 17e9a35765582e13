"""A live figure sends what changed when the change is complete; the plotting library travels
once."""
import json

import plotly.graph_objects as go

from tta_lab.panels.live import _library, live_figure


def sent(figure):
    return json.loads(figure.widget.spec)


def test_a_change_is_sent_once_it_is_complete():
    figure = live_figure(
        go.Figure([go.Scatter(x=[0, 1], y=[2, 3])]).update_layout(title_text="Error"))
    assert sent(figure)["data"][0]["y"] == [2, 3] and figure.widget.label == "Error"
    with figure.batch_update():
        figure.data[0].y = [5, 6]
        figure.layout.title.text = "Entropy"
        assert sent(figure)["data"][0]["y"] == [2, 3]
    assert sent(figure)["data"][0]["y"] == [
        5, 6
    ] and sent(figure)["layout"]["title"]["text"] == "Entropy" and figure.widget.label == "Entropy"
    with figure.batch_update():
        figure.data = ()
        figure.add_traces([go.Bar(y=[1]), go.Bar(y=[2])])
        figure.layout = go.Layout(height=77)
    assert [t["type"] for t in sent(figure)["data"]
            ] == ["bar", "bar"] and sent(figure)["layout"]["height"] == 77


def test_the_library_travels_once():
    one, two = live_figure(), live_figure()
    states = [figure.widget.get_state() for figure in (one, two)]
    assert states[0]["library"] == states[1]["library"]
    assert all(
        len(json.dumps({k: v for k, v in state.items() if isinstance(v, str)})) < 20_000
        for state in states)
    assert _library().model_id == states[0]["library"] and "plotly.js" in _library().code[:200]


def test_clicks_arrive_with_their_trace():
    figure = live_figure(go.Figure([go.Bar(y=[1]), go.Scatter(y=[4])]))
    clicks = []
    figure.on_click(lambda *click: clicks.append(click))
    figure.widget._handle_custom_msg({"points": [[1, 0, 4], [0, 0, 1]]}, [])
    figure.widget._handle_custom_msg({"points": []}, [])
    assert [(trace.type, x, y) for trace, x, y in clicks] == [("scatter", 0, 4)]


def test_without_a_panel_it_is_a_plain_figure():
    figure = live_figure(go.Figure([go.Bar(y=[1])]), interactive=False)
    assert type(figure) is go.Figure and figure.data[0].y == (1,)
