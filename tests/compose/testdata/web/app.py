# Counts visits in Redis and in PostgreSQL.
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2
import redis


def secret(name):
    with open("/run/secrets/" + name) as f:
        return f.read()


def connect():
    return psycopg2.connect(host=os.environ["DB_HOST"], user="app", dbname="app", password=secret("db-password"), connect_timeout=5)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        db = connect()
        with db, db.cursor() as c:
            c.execute("insert into visits values (now())")
            c.execute("select count(*) from visits")
            rows = c.fetchone()[0]
        db.close()
        hits = redis.Redis(host=os.environ["CACHE_HOST"]).incr("hits")
        body = json.dumps({
            "greeting": os.environ["GREETING"], "rows": rows, "hits": hits, "token": len(secret("token")),
            "peer": self.client_address[0],
        }).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


connect().close()  # what it depends on is there, or it does not start
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
