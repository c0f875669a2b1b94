"""A web server on the host for guests, and how a guest gets an address by DHCP."""
import contextlib
import hashlib
import http.server
import random
import threading

# udhcpc leaves it to a script to do what it has learned.
DHCP = r'''
echo '#!/bin/sh' >/tmp/lease
cat >>/tmp/lease <<'END'
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip route add default via $router
echo "nameserver $dns" >/etc/resolv.conf
echo "guest: leased $ip/$mask from $router, names from $dns, called $hostname" >/dev/console
END
chmod +x /tmp/lease; mkdir -p /etc
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -f -s /tmp/lease >/dev/null 2>&1 || echo "guest: no lease"
'''


class Pages(http.server.BaseHTTPRequestHandler):
    """Serves one page of random bytes; takes what is put and remembers its hash."""
    page = random.Random(1).randbytes(8 << 20)
    put = None

    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def do_POST(self):
        Pages.put = hashlib.sha256(self.rfile.read(int(self.headers['Content-Length']))).hexdigest()
        self.send_response(200)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def server():
    """A server on a free port of 127.0.0.1 (server_port)."""
    made = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Pages)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.shutdown()
