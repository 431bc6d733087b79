"""Programs that fill disks."""


def _fill(name: str, source: str, why: str, truths: tuple[str, ...] = ("call",)) -> dict[str, object]:
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": "no", "timeout_s": 1.0}


PROGRAMS = [
    _fill("one_big_file", '''chunk = b'x' * 2 ** 22
with open('hostile_mark', 'wb') as out:
    while True:
        out.write(chunk)''', "its own directory is bounded", ("call", "stdio", "assert")),
    _fill("tmp_filled", '''import tempfile
keep = []
chunk = b'x' * 2 ** 22
while True:
    try:
        t = tempfile.NamedTemporaryFile(prefix='hostile_mark')
        t.write(chunk)
        t.flush()
        keep.append(t)
    except OSError:
        pass''', "many files of moderate size"),
    _fill("sparse_file", '''import os
fd = os.open('hostile_mark', os.O_CREAT | os.O_RDWR)
os.truncate(fd, 2 ** 45)
os.lseek(fd, 2 ** 44, 0)
os.write(fd, b'x')
def f(x):
    return 0''', "a file of 32 TiB with nothing in it", ("call", "assert")),
    _fill("many_inodes", '''import os
i = 0
while True:
    try:
        os.mkdir(f'hostile_mark{i}')
        open(f'hostile_mark{i}/x', 'w').close()
    except OSError:
        pass
    i += 1''', "inodes run out before bytes do", ("call", "stdio")),
    _fill("deep_directories", '''import os
while True:
    try:
        os.mkdir('hostile_mark')
        os.chdir('hostile_mark')
    except OSError:
        break
def f(x):
    return 0''', "a tree too deep for a recursive clean-up"),
    _fill("undeletable", r'''import os
for i in range(50):
    try:
        os.mkdir(f'hostile_mark{i}')
        open(f'hostile_mark{i}/\udcff\n', 'w').close()
        os.chmod(f'hostile_mark{i}', 0)
    except (OSError, UnicodeError):
        pass
def f(x):
    return 0''', "directories without permissions and names that are no text"),
    _fill("shm_filled", '''chunk = b'x' * 2 ** 22
try:
    with open('/dev/shm/hostile_mark', 'wb') as out:
        while True:
            out.write(chunk)
except OSError:
    pass
def f(x):
    return 0''', "shared memory is a disk too"),
    _fill("fallocate", '''import os
for i in range(10000):
    try:
        fd = os.open(f'hostile_mark{i}', os.O_CREAT | os.O_RDWR)
        os.posix_fallocate(fd, 0, 2 ** 40)
    except OSError:
        pass
def f(x):
    return 0''', "space reserved at once"),
    _fill("symlinks_out", '''import os
for i, target in enumerate(['/', '@CWD@', '@HOME@', '/tmp']):
    try:
        os.symlink(target, f'hostile_mark{i}')
    except OSError:
        pass
def f(x):
    return 0''', "a clean-up that follows links would delete what they point to", ("call", "stdio", "assert")),
    _fill("fifo_in_tmp", '''import os
for i in range(5):
    try:
        os.mkfifo(f'hostile_mark{i}')
    except OSError:
        pass
def f(x):
    return 0''', "a clean-up that opens what it finds would hang", ("call", "stdio")),
    _fill("linked_files", '''import os
open('hostile_mark', 'w').write('x' * 10 ** 6)
for i in range(100000):
    try:
        os.link('hostile_mark', f'hostile_mark{i}')
    except OSError:
        break
def f(x):
    return 0''', "a hundred thousand names"),
]  # fmt: skip
