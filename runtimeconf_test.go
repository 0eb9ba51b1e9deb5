package podcni

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

// planOf is what SetUpPod would do.
func planOf(c *CNI, pod *PodNetwork) ([]*attachment, error) {
	if err := checkPod(pod, true); err != nil {
		return nil, err
	}
	return c.plan(c.networks.Current(), pod)
}

// askingPod asks its only network, "net", for something.
func askingPod(rc RuntimeConfig) *PodNetwork {
	return &PodNetwork{
		ID: "id", Name: "name", Namespace: "ns", UID: "uid", NetNS: "/run/netns/x",
		RuntimeConfig: map[string]RuntimeConfig{"net": rc},
	}
}

func planOne(t testing.TB, c *CNI, pod *PodNetwork) *attachment {
	t.Helper()
	plan, err := planOf(c, pod)
	require.NoError(t, err)
	require.Len(t, plan, 1)
	return plan[0]
}

// requireField wants an ErrInvalidPod that names the field, and returns the value
// that it names.
func requireField(t testing.TB, err error, field string) (value string) {
	t.Helper()
	var bad *FieldError
	require.ErrorAs(t, err, &bad)
	require.ErrorIs(t, err, ErrInvalidPod)
	require.Equal(t, field, bad.Field)
	require.Less(t, len(err.Error()), 1000, "an error must stay readable whatever was given")
	require.NotContains(t, err.Error(), "\n", "an error stays one line")
	return bad.Value
}

// requireRefused wants SetUpPod to refuse the pod before any plugin runs.
func requireRefused(t *testing.T, c *CNI, exec *fakeExec, pod *PodNetwork, field string) {
	t.Helper()
	results, err := c.SetUpPod(*pod)
	require.Nil(t, results)
	requireField(t, err, field)
	var podErr *PodError
	require.ErrorAs(t, err, &podErr)
	require.Zero(t, exec.count(VerbAdd))
	attached, err := c.Attachments(t.Context())
	require.NoError(t, err)
	require.Empty(t, attached, "nothing is recorded")
}

func TestPodIsChecked(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("a", 10<<10)
	type pod = PodNetwork
	for name, tc := range map[string]struct {
		spoil func(*pod)
		field string // empty: valid
	}{
		"valid":                   {func(*pod) {}, ""},
		"no names":                {func(p *pod) { p.Name, p.Namespace, p.UID = "", "", "" }, ""},
		"odd but harmless name":   {func(p *pod) { p.Name = "a b/c:ü" }, ""},
		"network twice":           {func(p *pod) { p.Networks[2].Name = p.Networks[0].Name }, ""},
		"longest name":            {func(p *pod) { p.Name = huge[:longestText] }, ""},
		"no ID":                   {func(p *pod) { p.ID = "" }, "ID"},
		"traversal in ID":         {func(p *pod) { p.ID = "../x" }, "ID"},
		"NUL in ID":               {func(p *pod) { p.ID = "a\x00" }, "ID"},
		"newline in ID":           {func(p *pod) { p.ID = "a\n" }, "ID"},
		"huge ID":                 {func(p *pod) { p.ID = huge }, "ID"},
		"semicolon in name":       {func(p *pod) { p.Name = "a;IP=10.0.0.1" }, "Name"},
		"newline in name":         {func(p *pod) { p.Name = "a\nb" }, "Name"},
		"return in name":          {func(p *pod) { p.Name = "a\rb" }, "Name"},
		"escape in name":          {func(p *pod) { p.Name = "a\x1b[2J" }, "Name"},
		"next line in name":       {func(p *pod) { p.Name = "a\u0085b" }, "Name"},
		"invalid UTF-8 in name":   {func(p *pod) { p.Name = "a\xffb" }, "Name"},
		"huge name":               {func(p *pod) { p.Name = huge }, "Name"},
		"a byte too many":         {func(p *pod) { p.Name = huge[:longestText+1] }, "Name"},
		"equals in namespace":     {func(p *pod) { p.Namespace = "a=b" }, "Namespace"},
		"newline in namespace":    {func(p *pod) { p.Namespace = "a\n" }, "Namespace"},
		"UTF-8 cut off":           {func(p *pod) { p.Namespace = "a\xc3" }, "Namespace"},
		"NUL in UID":              {func(p *pod) { p.UID = "\x00" }, "UID"},
		"newline in UID":          {func(p *pod) { p.UID = "\nK8S" }, "UID"},
		"DEL in UID":              {func(p *pod) { p.UID = "\x7f" }, "UID"},
		"semicolon in UID":        {func(p *pod) { p.UID = ";" }, "UID"},
		"NUL in NetNS":            {func(p *pod) { p.NetNS = "/run/\x00" }, "NetNS"},
		"newline in NetNS":        {func(p *pod) { p.NetNS = "/run/\n" }, "NetNS"},
		"invalid UTF-8 in NetNS":  {func(p *pod) { p.NetNS = "/run/\xff" }, "NetNS"},
		"huge NetNS":              {func(p *pod) { p.NetNS = "/" + huge }, "NetNS"},
		"no network name":         {func(p *pod) { p.Networks[1].Name = "" }, "Networks[1].Name"},
		"traversal in network":    {func(p *pod) { p.Networks[0].Name = "../a" }, "Networks[0].Name"},
		"newline in network":      {func(p *pod) { p.Networks[0].Name = "a\n" }, "Networks[0].Name"},
		"huge network":            {func(p *pod) { p.Networks[2].Name = huge }, "Networks[2].Name"},
		"traversal in interface":  {func(p *pod) { p.Networks[1].Ifname = "x/../../v" }, "Networks[1].Ifname"},
		"long interface":          {func(p *pod) { p.Networks[1].Ifname = "abcdefghijklmnop" }, "Networks[1].Ifname"},
		"newline in interface":    {func(p *pod) { p.Networks[1].Ifname = "e\n" }, "Networks[1].Ifname"},
		"huge interface":          {func(p *pod) { p.Networks[1].Ifname = huge }, "Networks[1].Ifname"},
		"interface twice":         {func(p *pod) { p.Networks[2].Ifname = p.Networks[0].Ifname }, "Networks[2].Ifname"},
		"record's name too long":  {func(p *pod) { p.ID = huge[:255] }, "ID"},
		"alias with a newline":    {func(p *pod) { p.Aliases = map[string][]string{"b": {"x", "y\n"}} }, `Aliases["b"][1]`},
		"alias with a space":      {func(p *pod) { p.Aliases = map[string][]string{"b": {"x y"}} }, `Aliases["b"][0]`},
		"alias of nothing":        {func(p *pod) { p.Aliases = map[string][]string{"b": {""}} }, `Aliases["b"][0]`},
		"alias that is no UTF-8":  {func(p *pod) { p.Aliases = map[string][]string{"b": {"\xff"}} }, `Aliases["b"][0]`},
		"huge alias":              {func(p *pod) { p.Aliases = map[string][]string{"b": {huge}} }, `Aliases["b"][0]`},
		"good aliases":            {func(p *pod) { p.Aliases = map[string][]string{"b": {"x", "ü"}} }, ""},
		"no such interface":       {func(p *pod) { p.InterfaceConfig = map[string]RuntimeConfig{"eth9": {}} }, "InterfaceConfig"},
		"an interface of nothing": {func(p *pod) { p.InterfaceConfig = map[string]RuntimeConfig{"": {}} }, "InterfaceConfig"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exec := &fakeExec{}
			c := exec.open(t, withNets("1.0.0", "a", "b", "c"))
			pod := PodNetwork{
				ID: "id", Name: "name", Namespace: "ns", UID: "uid", NetNS: "/run/netns/x",
				Networks: []NetAttachment{{"a", "eth0"}, {"b", ""}, {"c", "net1"}},
			}
			tc.spoil(&pod)
			if tc.field == "" {
				plan, err := planOf(c, &pod)
				require.NoError(t, err)
				require.Len(t, plan, 3)
				return
			}
			requireRefused(t, c, exec, &pod, tc.field)
		})
	}
}

func TestPodNeedsANamespaceToBeAttached(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkPod(&PodNetwork{ID: "id"}, false))
	err := checkPod(&PodNetwork{ID: "id"}, true)
	if runtime.GOOS == "windows" {
		require.NoError(t, err)
		return
	}
	requireField(t, err, "NetNS")
}

func TestInterfaceNames(t *testing.T) {
	t.Parallel()
	c := (&fakeExec{}).open(t, withNets("1.0.0", "net"))
	for _, tc := range []struct{ given, want []string }{
		{[]string{""}, []string{"eth0"}},
		{[]string{"", "", ""}, []string{"eth0", "eth1", "eth2"}},
		{[]string{"net0", "", ""}, []string{"net0", "eth0", "eth1"}},
		{[]string{"", "eth0", "", "eth2", ""}, []string{"eth1", "eth0", "eth3", "eth2", "eth4"}},
		{[]string{"eth1", "", "eth0"}, []string{"eth1", "eth2", "eth0"}},
	} {
		pod := &PodNetwork{ID: "id", NetNS: "/ns"}
		for _, ifName := range tc.given {
			pod.Networks = append(pod.Networks, NetAttachment{"net", ifName})
		}
		plan, err := planOf(c, pod)
		require.NoError(t, err)
		var got []string
		for _, a := range plan {
			got = append(got, a.IfName)
		}
		require.Equal(t, tc.want, got)
		for i, att := range pod.Networks {
			require.Equal(t, tc.given[i], att.Ifname, "the caller's slice must stay as it was")
		}
	}
}

func TestInterfacePrefixMustHaveRoom(t *testing.T) {
	t.Parallel()
	// 12 bytes leave room for 1000 numbers.
	c := (&fakeExec{}).open(t, withNets("1.0.0", "net"), WithInterfacePrefix("abcdefghijkl"))
	pod := &PodNetwork{ID: "id", NetNS: "/ns", Networks: make([]NetAttachment, 1001)}
	for i := range pod.Networks {
		pod.Networks[i].Name = "net"
	}
	_, err := planOf(c, pod)
	requireField(t, err, "Networks[1000].Ifname")
	pod.Networks = pod.Networks[:1000]
	plan, err := planOf(c, pod)
	require.NoError(t, err)
	require.Equal(t, "abcdefghijkl999", plan[999].IfName)
}

func TestPlan(t *testing.T) {
	t.Parallel()
	c := (&fakeExec{}).open(t, withNets("1.0.0", "a", "b"))
	pod := &PodNetwork{
		ID: "id", Name: "name", Namespace: "ns", UID: "uid", NetNS: "/run/netns/x",
		Networks: []NetAttachment{{"b", ""}, {"a", "net1"}},
	}
	plan, err := planOf(c, pod)
	require.NoError(t, err)
	require.Len(t, plan, 2)
	for i, want := range []NetAttachment{{"b", "eth0"}, {"a", "net1"}} {
		a, list := plan[i], c.networks.Current().Network(want.Name).List
		require.Equal(t, want, NetAttachment{a.Network, a.IfName})
		require.Equal(t, "id", a.containerID)
		require.Equal(t, "/run/netns/x", a.NetNS)
		require.Same(t, list, a.list)
		require.JSONEq(t, string(list.Bytes), string(a.Config))
		require.Equal(t, [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", "ns"},
			{"K8S_POD_NAME", "name"},
			{"K8S_POD_INFRA_CONTAINER_ID", "id"},
			{"K8S_POD_UID", "uid"},
		}, a.Args)
		require.Nil(t, a.CapabilityArgs)
		require.Zero(t, a.started)
	}

	pod.Networks = nil
	require.Equal(t, "a", planOne(t, c, pod).Network, "the default network")
}

func TestNetworkThatIsNotLoaded(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	conf := testutils.NewConfDir(t).Write("a.conflist", testutils.List("bad", "1.0.0", "gone")).
		Write("b.conflist", testutils.List("good", "1.0.0", "noop"))
	c := exec.open(t, WithConfDir(conf.Path()))
	exec.remove("gone")
	require.NoError(t, c.Reload(t.Context()))
	pod := &PodNetwork{ID: "id", NetNS: "/ns", Networks: []NetAttachment{{Name: "good"}, {Name: "bad"}}}
	_, err := c.SetUpPod(*pod)
	require.ErrorIs(t, err, ErrNetworkNotFound)
	require.ErrorIs(t, err, ErrPluginNotFound)
	var rejected *ConfigError
	require.ErrorAs(t, err, &rejected)
	require.Equal(t, ConfigError{Path: conf.File("a.conflist"), Network: "bad", Err: rejected.Err}, *rejected)

	pod.Networks[1].Name = "other"
	_, err = c.SetUpPod(*pod)
	require.ErrorIs(t, err, ErrNetworkNotFound)
	require.NotErrorIs(t, err, ErrPluginNotFound)
	require.ErrorContains(t, err, `"other"`)
	require.ErrorContains(t, err, "loaded are good")

	pod.Networks = nil
	_, err = c.SetUpPod(*pod)
	require.ErrorIs(t, err, ErrNetworkNotFound)
	require.ErrorIs(t, err, ErrPluginNotFound, "the default network is away, and no other takes its place")
	require.Zero(t, exec.count(VerbAdd))

	empty := exec.open(t)
	for _, networks := range [][]NetAttachment{nil, {{Name: "other"}}} {
		_, err = empty.SetUpPod(PodNetwork{ID: "id", NetNS: "/ns", Networks: networks})
		require.ErrorIs(t, err, ErrNetworkNotFound)
	}
}

func TestInterfaceConfigStandsInForRuntimeConfig(t *testing.T) {
	t.Parallel()
	c := (&fakeExec{}).open(t, withNets("1.0.0", "a", "b"))
	pod := &PodNetwork{
		ID: "id", NetNS: "/ns",
		Networks: []NetAttachment{{"a", ""}, {"a", "net1"}, {"b", ""}},
		RuntimeConfig: map[string]RuntimeConfig{
			"a":     {IP: "10.0.0.1", MAC: "02:00:00:00:00:01"},
			"other": {IP: "not looked at"},
		},
		InterfaceConfig: map[string]RuntimeConfig{"net1": {IP: "10.0.0.2"}, "eth1": {}},
		Aliases:         map[string][]string{"b": {"x", "y"}, "other": {"z"}},
	}
	plan, err := planOf(c, pod)
	require.NoError(t, err)
	require.Contains(t, argsString(plan[0].Args), ";IP=10.0.0.1;MAC=02:00:00:00:00:01")
	require.Contains(t, argsString(plan[1].Args), ";IP=10.0.0.2")
	require.NotContains(t, argsString(plan[1].Args), "MAC=", "InterfaceConfig stands in for RuntimeConfig as a whole")
	require.Nil(t, plan[0].CapabilityArgs["aliases"])
	require.JSONEq(t, `{"aliases":["x","y"]}`, asJSON(t, plan[2].CapabilityArgs))

	pod.InterfaceConfig["net1"] = RuntimeConfig{IP: "x"}
	_, err = planOf(c, pod)
	requireField(t, err, `InterfaceConfig["net1"].IP`)
	pod.InterfaceConfig = map[string]RuntimeConfig{"eth9": {}, "eth8": {}}
	_, err = planOf(c, pod)
	require.Equal(t, "eth8", requireField(t, err, "InterfaceConfig"))
}

func TestCNIArgs(t *testing.T) {
	t.Parallel()
	const base = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=name;K8S_POD_INFRA_CONTAINER_ID=id;K8S_POD_UID=uid"
	for _, tc := range []struct {
		name    string
		rc      RuntimeConfig
		environ string
		want    string
	}{
		{"nothing", RuntimeConfig{}, "", base},
		{"address", RuntimeConfig{IP: "10.0.0.5/24", MAC: "02:00:00:00:00:01"}, "", base + ";IP=10.0.0.5/24;MAC=02:00:00:00:00:01"},
		{"addresses", RuntimeConfig{IPs: []string{"2001:db8::5", "10.0.0.5"}}, "", base + ";IP=2001:db8::5"},
		{"address first", RuntimeConfig{IP: "10.0.0.5", IPs: []string{"10.0.0.5/24"}}, "", base + ";IP=10.0.0.5"},
		{"more", RuntimeConfig{IP: "10.0.0.5", Args: map[string]string{"b": "2", "a": "1 x", "E": ""}}, "", base + ";IP=10.0.0.5;E=;a=1 x;b=2"},
		{"Args win", RuntimeConfig{IP: "10.0.0.5", Args: map[string]string{"IP": "x", "K8S_POD_UID": "u"}}, "", strings.Replace(base, "uid", "u", 1) + ";IP=x"},
		{"environment", RuntimeConfig{}, "a=1;b=2", base + ";a=1;b=2"},
		{"odd environment", RuntimeConfig{}, ";;x;=y;a=b=c;", base + ";a=b=c"},
		{"environment over the pod's name", RuntimeConfig{}, "K8S_POD_NAME=n2", strings.Replace(base, "name", "n2", 1)},
		{"address over environment", RuntimeConfig{IP: "10.0.0.5", Args: map[string]string{"a": "2"}}, "IP=10.0.0.9;a=1", base + ";IP=10.0.0.5;a=2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := (&fakeExec{}).open(t, withNets("1.0.0", "net"))
			c.environArgs = tc.environ
			require.Equal(t, tc.want, argsString(planOne(t, c, askingPod(tc.rc)).Args))
		})
	}
	require.Empty(t, argsString(nil))
}

func TestCNIArgsTooLong(t *testing.T) {
	t.Parallel()
	exec := &fakeExec{}
	c := exec.open(t, withNets("1.0.0", "net"))
	many := make(map[string]string)
	for i := range longestArgs {
		many[fmt.Sprint(i)] = ""
	}
	for _, args := range []map[string]string{many, {"k": strings.Repeat("v", longestArgs)}} {
		requireRefused(t, c, exec, askingPod(RuntimeConfig{Args: args}), `RuntimeConfig["net"].Args`)
	}
	a := planOne(t, c, askingPod(RuntimeConfig{Args: map[string]string{"k": strings.Repeat("v", longestArgs-200)}}))
	require.LessOrEqual(t, len(argsString(a.Args)), longestArgs)

	c.environArgs = strings.Repeat("a=b;", longestArgs)
	_, err := planOf(c, askingPod(RuntimeConfig{}))
	requireField(t, err, `RuntimeConfig["net"].Args`)
}

// The arguments must read back as types.LoadArgs, which plugins use, reads them.
func TestCNIArgsReadBack(t *testing.T) {
	t.Parallel()
	c := (&fakeExec{}).open(t, withNets("1.0.0", "net"))
	a := planOne(t, c, askingPod(RuntimeConfig{IP: "10.0.0.5", Args: map[string]string{"OTHER": "x"}}))
	var got struct {
		types.CommonArgs
		IP                         netip.Addr
		K8S_POD_NAME               types.UnmarshallableString
		K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString
	}
	require.NoError(t, types.LoadArgs(argsString(a.Args), &got))
	require.Equal(t, "10.0.0.5", got.IP.String())
	require.EqualValues(t, "name", got.K8S_POD_NAME)
	require.EqualValues(t, "id", got.K8S_POD_INFRA_CONTAINER_ID)
}

func BenchmarkPlan(b *testing.B) {
	c := (&fakeExec{}).open(b, withNet("net", "portMappings"))
	for _, bc := range []struct {
		name string
		pod  PodNetwork
	}{
		{"network", PodNetwork{}},
		{"ports", PodNetwork{RuntimeConfig: map[string]RuntimeConfig{
			"net": {PortMappings: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"}}},
		}}},
		{"two networks", PodNetwork{Networks: []NetAttachment{{Name: "net"}, {Name: "net"}}}},
	} {
		bc.pod.ID, bc.pod.Name, bc.pod.Namespace, bc.pod.NetNS = strings.Repeat("f", 64), "pod", "default", "/run/netns/x"
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := planOf(c, &bc.pod); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
