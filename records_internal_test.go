package podcni

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"
)

func newTestStore(t testing.TB, cacheDir string) *recordStore {
	t.Helper()
	s := openRecords(&options{cacheDir: cacheDir, log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.close)
	return s
}

func testRecord(id, network, ifName string) *record {
	return &record{
		ContainerID: id, Network: network, IfName: ifName,
		NetNS:          "/run/netns/" + id,
		Config:         []byte(`{"cniVersion":"1.1.0","name":"` + network + `","plugins":[{"type":"noop"}]}`),
		CniArgs:        [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "pod <&> ü"}},
		CapabilityArgs: map[string]json.RawMessage{"mac": json.RawMessage(`"c2:11:22:33:44:55"`)},
		State:          stateAttaching,
		NetNSID:        NetNSID{Dev: 4, Ino: 4026532000, BootID: "boot", Cookie: 77},
		Owner:          "me",
		Since:          time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC),
		Order:          1,
		Pod:            podName{Namespace: "ns", Name: "pod", UID: "uid"},
	}
}

func attached(rec *record) *record {
	done := *rec
	done.State = stateAttached
	done.Result = json.RawMessage(`{"cniVersion":"1.1.0","ips":[{"address":"10.1.2.3/24"}],"vendor":{"big":12345678901234567890}}`)
	return &done
}

// ofOne gives the records of a sandbox that must all be readable.
func ofOne(t testing.TB, s *recordStore, id string) []*record {
	t.Helper()
	recs, bad, err := s.ofSandbox(id)
	require.NoError(t, err)
	require.Empty(t, bad)
	return recs
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, filepath.Join(t.TempDir(), "cache"))
	rec := testRecord("sandbox", "net", "eth0")
	require.NoError(t, s.claim(rec))
	got := ofOne(t, s, "sandbox")
	require.Len(t, got, 1)
	want := *rec
	want.Writer = thisWriter()
	require.Equal(t, &want, got[0])
	require.NotZero(t, want.Writer.PID)

	done := attached(rec)
	require.NoError(t, s.put(done))
	got = ofOne(t, s, "sandbox")
	require.Len(t, got, 1)
	want = *done
	want.Writer = thisWriter()
	require.Equal(t, &want, got[0], "also a result's numbers and unknown keys")

	require.NoError(t, s.remove(done))
	require.Empty(t, ofOne(t, s, "sandbox"))
	require.NoError(t, s.remove(done), "absent is fine")
}

func TestRecordsCreateNothingBeforeTheFirst(t *testing.T) {
	t.Parallel()
	cache := filepath.Join(t.TempDir(), "cache")
	s := newTestStore(t, cache)
	require.Empty(t, ofOne(t, s, "sandbox"))
	unlock, err := s.lockSandbox(context.Background(), "sandbox", false)
	require.NoError(t, err)
	require.NoError(t, s.remove(testRecord("sandbox", "net", "eth0")))
	_, err = s.forget("sandbox")
	require.NoError(t, err)
	list, err := s.attachments(context.Background())
	require.NoError(t, err)
	require.Empty(t, list)
	unlock()
	require.NoDirExists(t, cache)

	require.NoError(t, s.claim(testRecord("sandbox", "net", "eth0")))
	if os.PathSeparator == '/' {
		for path, mode := range map[string]os.FileMode{
			cache: 0o700, s.results: 0o700, s.extras: 0o700,
			s.path("net-sandbox-eth0"): 0o600, s.locks.path: 0o600,
		} {
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, mode, info.Mode().Perm(), path)
		}
	}
}

func TestRecordOrder(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, t.TempDir())
	for i, ifName := range []string{"eth0", "net1", "a"} {
		rec := testRecord("sandbox", "net", ifName)
		rec.Order = i
		require.NoError(t, s.claim(rec))
	}
	var names []string
	for _, rec := range ofOne(t, s, "sandbox") {
		names = append(names, rec.IfName)
	}
	require.Equal(t, []string{"eth0", "net1", "a"}, names)
}

// libcniConf is what libcni's functions want of a record of testRecord.
func libcniConf(rec *record) (*libcni.NetworkConfigList, *libcni.RuntimeConf) {
	return &libcni.NetworkConfigList{Name: rec.Network, CNIVersion: "1.1.0"},
		&libcni.RuntimeConf{ContainerID: rec.ContainerID, IfName: rec.IfName, NetNS: rec.NetNS}
}

func TestLibcniReadsOurRecords(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	s := newTestStore(t, cache)
	lib := libcni.NewCNIConfigWithCacheDir(nil, cache, nil)
	rec := testRecord("sandbox", "net", "eth0")
	require.NoError(t, s.claim(rec))
	list, rt := libcniConf(rec)

	check := func() {
		config, got, err := lib.GetNetworkListCachedConfig(list, rt)
		require.NoError(t, err)
		require.Equal(t, rec.Config, config)
		require.Equal(t, rec.CniArgs, got.Args)
		require.Equal(t, map[string]any{"mac": "c2:11:22:33:44:55"}, got.CapabilityArgs)
		all, err := lib.GetCachedAttachments("sandbox")
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, rec.NetNS, all[0].NetNS)
		require.Equal(t, "net", all[0].Network)
	}
	check()
	require.NoError(t, s.put(attached(rec)))
	check()
	result, err := lib.GetNetworkListCachedResult(list, rt)
	require.NoError(t, err)
	res, err := types100.GetResult(result)
	require.NoError(t, err)
	require.Len(t, res.IPs, 1)
	require.Equal(t, "10.1.2.3/24", res.IPs[0].Address.String())
}

// answering stands for plugins: what matters here is what libcni writes.
type answering struct{ *invoke.DefaultExec }

func (answering) FindInPath(plugin string, _ []string) (string, error) { return "/bin/" + plugin, nil }

func (answering) ExecPlugin(context.Context, string, []byte, []string) ([]byte, error) {
	return []byte(`{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}`), nil
}

func TestWeReadLibcnisRecords(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	list, err := libcni.NetworkConfFromBytes([]byte(`{"cniVersion":"1.0.0","name":"my-net","plugins":[{"type":"noop","capabilities":{"mac":true}}]}`))
	require.NoError(t, err)
	lib := libcni.NewCNIConfigWithCacheDir(nil, cache, answering{&invoke.DefaultExec{}})
	_, err = lib.AddNetworkList(context.Background(), list, &libcni.RuntimeConf{
		ContainerID: "sand-box", IfName: "eth0", NetNS: "/proc/1/ns/net",
		Args:           [][2]string{{"K", "v"}},
		CapabilityArgs: map[string]any{"mac": "c2:11:22:33:44:55"},
	})
	require.NoError(t, err)

	s := newTestStore(t, cache)
	recs := ofOne(t, s, "sand-box")
	require.Len(t, recs, 1)
	rec := recs[0]
	require.JSONEq(t, `{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}`, string(rec.Result))
	rec.Result = nil
	require.Equal(t, &record{
		ContainerID: "sand-box", IfName: "eth0", Network: "my-net", NetNS: "/proc/1/ns/net",
		Config: list.Bytes, CniArgs: [][2]string{{"K", "v"}},
		CapabilityArgs: map[string]json.RawMessage{"mac": json.RawMessage(`"c2:11:22:33:44:55"`)},
		State:          stateAttached,
	}, rec)
	require.Empty(t, ofOne(t, s, "net-sand-box"), "its name fits, and it is another's")
	require.NoError(t, s.remove(rec))
	require.NoFileExists(t, filepath.Join(cache, "results", "my-net-sand-box-eth0"))
}

func TestRecordRefusesWhatMakesNoFile(t *testing.T) {
	t.Parallel()
	cache := filepath.Join(t.TempDir(), "cache")
	s := newTestStore(t, cache)
	for _, rec := range []*record{
		testRecord(strings.Repeat("x", 250), "net", "eth0"),
		testRecord("../../etc", "net", "eth0"),
		testRecord("a\x00b", "net", "eth0"),
		testRecord("", "net", "eth0"),
		testRecord("sandbox", "../net", "eth0"),
		testRecord("sandbox", "net", "x/../../../victim"),
		testRecord(strings.Repeat("x", 10<<10), "net", "eth0"),
	} {
		for _, op := range []func(*record) error{s.claim, s.put, s.remove} {
			err := op(rec)
			var field *FieldError
			require.ErrorAs(t, err, &field)
			require.ErrorIs(t, err, ErrInvalidPod)
		}
	}
	bad := testRecord("sandbox", "net", "eth0")
	bad.NetNS = "/run/\xff"
	require.ErrorIs(t, s.claim(bad), ErrInvalidPod, "JSON would change it")
	bad = testRecord("sandbox", "net", "eth0")
	bad.Result = json.RawMessage(`[1]`)
	require.ErrorIs(t, s.put(bad), errNoObject)
	bad.Result = json.RawMessage(`{`)
	require.Error(t, s.put(bad))
	require.NoDirExists(t, cache)
}

func TestRecordNamesRunTogether(t *testing.T) {
	t.Parallel()
	s := newTestStore(t, t.TempDir())
	first, second := testRecord("c", "a-b", "eth0"), testRecord("b-c", "a", "eth0")
	require.Equal(t, first.fileName(), second.fileName())
	require.NoError(t, s.claim(first))
	err := s.claim(second)
	require.ErrorIs(t, err, ErrNameTaken)
	var recErr *RecordError
	require.ErrorAs(t, err, &recErr)
	require.ErrorIs(t, s.claim(first), ErrAlreadyAttached)

	require.NoError(t, s.remove(second), "there is none")
	require.Empty(t, ofOne(t, s, "b-c"))
	require.Len(t, ofOne(t, s, "c"), 1, "the other's stays")
	n, err := s.forget("b-c")
	require.NoError(t, err)
	require.Zero(t, n)
	require.Len(t, ofOne(t, s, "c"), 1)
}

func TestSplitName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]recordSplit{
		"net-id-eth0":               {{"net", "id", "eth0"}},
		"a-b-c-eth0":                {{"a", "b-c", "eth0"}, {"a-b", "c", "eth0"}, {"a", "b", "c-eth0"}},
		"net-id":                    nil,
		"net":                       nil,
		"":                          nil,
		"-id-eth0":                  nil,
		"net--eth0":                 nil,
		"net-id-":                   nil,
		".net-id-eth0":              nil,
		"net-id-interfacetoolong12": nil,
		"net-_id-eth0":              nil,
	} {
		require.ElementsMatch(t, want, splitName(name, 100), name)
	}
	hex := strings.Repeat("0123456789abcdef", 4)
	for _, c := range []struct {
		name, id      string
		fits, certain bool
	}{
		{"net-id-eth0", "id", true, true},
		{"net-id-eth0", "net", false, false},
		{"a-b-c-eth0", "c", true, false},
		{"my-net-" + hex + "-eth0", hex, true, true},
		{"my-net-" + hex + "-eth0", "net-" + hex, true, true},
		{"net-" + hex + "-x-0", hex, true, false},
	} {
		own, fits, certain := ownSplit(c.name, c.id)
		require.Equal(t, c.fits, fits, c)
		require.Equal(t, c.certain, certain, c)
		if fits {
			require.Equal(t, c.name, own.network+"-"+own.id+"-"+own.ifName)
		}
	}
}

func TestIndexIsWhatItsNamesAre(t *testing.T) {
	t.Parallel()
	wild := strings.Repeat("a-", 100) + "eth0"
	var x recordIndex
	x.replace([]string{"net-id-eth0", "a-b-c-eth0", "rubbish", wild})
	require.Equal(t, []string{"net-id-eth0"}, x.of("id"))
	require.Equal(t, []string{"a-b-c-eth0"}, x.of("b-c"))
	require.Equal(t, []string{wild}, x.of("a-a"))
	require.Empty(t, x.of("rubbish"))
	x.add("net-id-eth0")
	require.Len(t, x.of("id"), 1)
	x.replace([]string{"net-id-eth1", "rubbish"})
	require.Equal(t, []string{"net-id-eth1"}, x.of("id"))
	require.Equal(t, []string{"net-id-eth1", "rubbish"}, x.all())
	x.remove("net-id-eth1")
	x.remove("net-id-eth1")
	x.remove("rubbish")
	require.Empty(t, x.names)
	require.Empty(t, x.byID)
	require.Empty(t, x.wild)
}

// FuzzRecord decodes any bytes: a record that encodes to what decodes to the
// same, or an error.
func FuzzRecord(f *testing.F) {
	whole, err := attached(testRecord("id", "net", "eth0")).encode(writerID{PID: 1, Start: 2, BootID: "b"})
	require.NoError(f, err)
	f.Add("net-id-eth0", whole)
	f.Add("net-id-eth0", whole[:len(whole)/2])
	f.Add("net-id-eth0", []byte{})
	f.Add("net-id-eth0", []byte(`{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}`))
	f.Add("a-b-c", []byte(`{"kind":"cniCacheV1","containerId":"b","config":"e30=","ifName":"c","networkName":"a","result":null,"podcni":null}`))
	f.Add("a-b-c", []byte(`{"kind":"cniCacheV1","containerId":"b","config":"e30=","ifName":"c","networkName":"a","cniArgs":[[],["a","b","c"]],"podcni":{"state":"later"}}`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		rec, err := decodeRecord(name, data)
		if err != nil {
			require.Nil(t, rec)
			return
		}
		require.Equal(t, name, rec.fileName())
		require.NoError(t, rec.checkNames())
		require.NotEmpty(t, splitName(name, 1))
		again, err := rec.encode(rec.Writer)
		require.NoError(t, err)
		second, err := decodeRecord(name, again)
		require.NoError(t, err)
		third, err := second.encode(second.Writer)
		require.NoError(t, err)
		require.Equal(t, string(again), string(third))
	})
}

// fillRecords writes records of other sandboxes, as another process would.
func fillRecords(t testing.TB, s *recordStore, n int) {
	t.Helper()
	require.NoError(t, os.MkdirAll(s.results, 0o700))
	for i := range n {
		rec := testRecord(fmt.Sprintf("other-%06d", i), "net", "eth0")
		data, err := rec.encode(writerID{})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(s.path(rec.fileName()), data, 0o600))
	}
}
