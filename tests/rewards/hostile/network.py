# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that reach the network. Each answers right only once it has got through."""

_LIB = """
import socket, os
def attempt():
@BODY@
def f(x):
    attempt()
    return x + 3
if __name__ == '__main__':
    x = int(input())
    attempt()
    print(x + 3)
"""


def _net(name: str, body: str, why: str, truths: tuple[str, ...] = ("call",), naive: str = "pay") -> dict[str, object]:
    source = _LIB.replace("@BODY@", "\n".join("    " + line for line in body.splitlines()))
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive}


PROGRAMS = [
    _net("tcp_loopback", "socket.create_connection(('127.0.0.1', @PORT@), timeout=1).sendall(b'x')", "a service on this machine is not the candidate's to talk to", ("call", "stdio", "assert", "check")),
    _net("tcp_all_addresses", "socket.create_connection(('0.0.0.0', @PORT@), timeout=1)", "the unspecified address means this machine"),
    _net("tcp_mapped", '''s = socket.socket(socket.AF_INET6)
s.settimeout(1)
s.connect(('::ffff:127.0.0.1', @PORT@))''', "an IPv4 address in IPv6 clothes"),
    _net("udp_loopback", '''s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'hostile', ('127.0.0.1', @UDP@))
raise ConnectionError('sent')''', "a datagram needs no connection", ("call", "stdio", "assert")),
    _net("udp_connected", '''s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('127.0.0.1', @UDP@))
s.send(b'hostile')
raise ConnectionError('sent')''', "a datagram needs no connection"),
    _net("fast_open", '''s = socket.socket()
s.settimeout(1)
s.sendto(b'hostile', 0x20000000, ('127.0.0.1', @PORT@))''', "data with the first packet, without connect()", naive="run"),
    _net("unix_abstract", r'''s = socket.socket(socket.AF_UNIX)
s.settimeout(1)
s.connect('\0@ABSTRACT@')
s.sendall(b'x')''', "abstract names belong to the network namespace, not to files", ("call", "stdio", "assert")),
    _net("unix_abstract_datagram", r'''s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b'x', '\0@ABSTRACT@-dgram')''', "a datagram to an abstract name"),
    _net("unix_path", '''s = socket.socket(socket.AF_UNIX)
s.settimeout(1)
s.connect('@CWD@/listener.sock')''', "a socket file outside is out of reach", ("call", "assert")),
    _net("metadata", "socket.create_connection(('169.254.169.254', 80), timeout=1).sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')", "the link-local address of cloud metadata", ("call", "assert"), "no"),
    _net("dns_datagram", '''query = bytes.fromhex('123401000001000000000000076578616d706c6503636f6d0000010001')
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
servers = [l.split()[1] for l in open('/etc/resolv.conf') if l.startswith('nameserver')] or ['127.0.0.1']
s.sendto(query, (servers[0], 53))
s.recv(512)''', "a name query carries data out", naive="no"),
    _net("dns_library", "socket.getaddrinfo('canary.example.com', 80)", "a name query carries data out", ("call", "stdio"), "no"),
    _net("raw_packet", r'''s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)
s.bind(('lo', 0))
s.send(b'\0' * 60)
s.settimeout(1)
s.recv(10)''', "packets without a protocol", naive="no"),
    _net("raw_icmp", r'''s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
s.sendto(b'\x08\0\xf7\xff\0\0\0\0', ('127.0.0.1', 0))
s.settimeout(1)
while s.recvfrom(100)[1][0] != '127.0.0.1':
    pass''', "a ping", naive="no"),
    _net("netlink_other_links", '''links = [name for _, name in socket.if_nameindex() if name != 'lo']
if not links or all(open(f'/sys/class/net/{n}/operstate').read().strip() == 'down' for n in links):
    raise OSError('no link')
socket.create_connection(('127.0.0.1', @PORT@), timeout=1)''', "the links of the machine are not the candidate's", naive="run"),
    _net("vsock", '''s = socket.socket(40, socket.SOCK_STREAM)
s.settimeout(1)
s.connect((2, 1))''', "the host of a virtual machine", naive="no"),
    _net("bash_dev_tcp", '''if os.system('bash -c "echo hostile > /dev/tcp/127.0.0.1/@PORT@" 2>/dev/null'):
    raise OSError('refused')''', "a shell has sockets of its own", ("call", "stdio")),
    _net("inherited_socket", '''import stat
for fd in range(3, 256):
    try:
        s = socket.socket(fileno=os.dup(fd))
        if s.family == socket.AF_INET:
            return
    except OSError:
        pass
raise OSError('none')''', "no socket of the parent's is inherited", naive="run"),
    _net("new_user_namespace_net", '''import ctypes
libc = ctypes.CDLL(None)
libc.unshare(0x10000000)
for path in ('/proc/1/ns/net', f'/proc/{os.getppid()}/ns/net'):
    try:
        libc.setns(os.open(path, os.O_RDONLY), 0x40000000)
    except OSError:
        pass
socket.create_connection(('127.0.0.1', @PORT@), timeout=1)''', "back into the machine's network", naive="no"),
    _net("passed_descriptor", '''s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b'x', '@CWD@/datagram.sock')''', "a datagram to a socket file outside"),
]  # fmt: skip
