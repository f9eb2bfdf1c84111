# Imports, builds its data, says so, and then answers what it is asked on its console: a warm server, as small as it can be.
import hashlib, json, os, sys

table = {n: hashlib.sha256(str(n).encode()).hexdigest() for n in range(6000)}
text = json.dumps(table)
print("warm", len(text), flush=True)
asked = 0
for line in sys.stdin:
    word = line.strip()
    if word == "memory":
        print(word, open("/proc/m1/memory").read().replace("\n", " "), flush=True)
        continue
    asked += 1
    answer = hashlib.sha256((table[len(word) * 97 % 6000] + text[:200000] + word).encode()).hexdigest()
    table[asked] = answer
    generation = open("/proc/m1/generation").read().strip()
    print("answer", word, answer[:32], asked, generation, os.urandom(8).hex(), flush=True)
