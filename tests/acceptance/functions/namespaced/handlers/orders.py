from handlers import common


def lines(event):
    return [common.line(record) for record in event["Records"]]
