package testutils

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sort"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// Pool makes the plugin keep account of what it has given out, as one that
// manages addresses does, and as badly behaved as such a plugin may be: ADD
// takes an address before anything else, and keeps it whether the run then
// answers, fails, hangs or is killed; an ADD of what is held already fails;
// CHECK fails for what is not held; only a DEL that succeeds gives it back.
// GC gives nothing back, as with the reference plugins.
func (p *Plugin) Pool() *Plugin {
	p.d.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	mkdir(p.d.t, poolDir(p.state))
	p.script.Pool = true
	p.save()
	return p
}

// Held is what a plugin with a [Plugin.Pool] has given out and not got back,
// as "network container interface", sorted.
func (p *Plugin) Held(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(poolDir(p.state))
	if err != nil {
		t.Fatalf("plugin %s has no pool: %v", p.name, err)
	}
	held := []string{}
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(poolDir(p.state), entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatalf("read a pool: %v", err)
		}
		held = append(held, string(content))
	}
	sort.Strings(held)
	return held
}

func poolDir(state string) string { return filepath.Join(state, "pool") }

// lease is one address of a pool: a file of that attachment's own.
type lease struct {
	holder string
	file   string
}

func (r *run) lease() lease {
	holder := r.config.Name + " " + r.env("CNI_CONTAINERID") + " " + r.env("CNI_IFNAME")
	sum := sha256.Sum256([]byte(holder))
	return lease{holder: holder, file: filepath.Join(poolDir(r.state), hex.EncodeToString(sum[:]))}
}

// take makes the file in one step, so that a run killed meanwhile leaves
// nothing that no DEL could find.
func (l lease) take(state string) error {
	temp, err := os.CreateTemp(state, "lease-")
	if err != nil {
		return err
	}
	_, err = temp.WriteString(l.holder)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Link(temp.Name(), l.file)
	}
	_ = os.Remove(temp.Name())
	if errors.Is(err, fs.ErrExist) {
		return types.NewError(100, "duplicate allocation", l.holder)
	}
	return err
}

func (l lease) check() error {
	_, err := os.Stat(l.file)
	if errors.Is(err, fs.ErrNotExist) {
		return types.NewError(types.ErrUnknownContainer, "nothing is allocated", l.holder)
	}
	return err
}

func (l lease) giveBack() error {
	if err := os.Remove(l.file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ownAddresses are addresses, and a hardware address, for an attachment: always
// the same for one, and hardly ever the same for two.
func ownAddresses(holder string) (mac string, addresses []string) {
	sum := sha256.Sum256([]byte(holder))
	v4 := net.IPv4(10, sum[0], sum[1], sum[2]|1)
	v6 := net.IP(append([]byte{0xfd, 0, 0, 0, 0, 0, 0, 0}, sum[:8]...))
	return net.HardwareAddr(append([]byte{2}, sum[:5]...)).String(), []string{v4.String() + "/8", v6.String() + "/64"}
}
